"""What one would write without any of this: httpx, json, base64, a FastAPI route. `python -m tests.zeroing.control`.

With a line of JSON on stdin it decrypts, stopping at the same places as `target.py`; with the argument `serve` it is a
service that encrypts what it is sent, and one that asks Alpaca.
"""

import asyncio
import base64
import gc
import json
import os
import sys
from typing import Any

import httpx


async def decrypt(told: dict[str, Any]) -> None:
    """Decrypts, uses, forgets; then closes everything and collects garbage, which is more than usual."""
    async with httpx.AsyncClient(base_url=os.environ["VAULT_ADDR"], verify=_verify()) as vault:
        answer = await vault.post(
            "/v1/transit/decrypt/credentials-alpaca",
            json={"ciphertext": told["ciphertext"], "context": told["context"]},
            headers={"X-Vault-Token": told["token"]},
        )
        keys = base64.b64decode(answer.json()["data"]["plaintext"]).decode().split("\n")
        _stands("inside")
        del keys, answer
    gc.collect()
    _stands("after")


def serve() -> None:
    """The two routes."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Body(BaseModel):
        api_key: str
        secret_key: str

    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> None:
        """It is there."""

    @app.post("/store")
    async def store(body: Body) -> None:
        plaintext = base64.b64encode(f"{body.api_key}\n{body.secret_key}".encode()).decode()
        async with httpx.AsyncClient(base_url=os.environ["VAULT_ADDR"], verify=_verify()) as vault:
            await vault.post(
                "/v1/transit/encrypt/credentials-alpaca",
                json={"plaintext": plaintext, "context": base64.b64encode(bytes(32)).decode()},
                headers={"X-Vault-Token": os.environ["VAULT_TOKEN"]},
            )

    @app.post("/validate")
    async def validate(body: Body) -> None:
        async with httpx.AsyncClient(base_url=os.environ["ALPACA_BASE_URL"], verify=_verify()) as alpaca:
            await alpaca.get(
                "/v2/account", headers={"APCA-API-KEY-ID": body.api_key, "APCA-API-SECRET-KEY": body.secret_key}
            )

    uvicorn.run(app, port=int(os.environ["CREDENTIALS_PORT"]), log_level="error")


def _verify() -> Any:
    import ssl

    cafile = os.environ.get("VAULT_CACERT")
    return ssl.create_default_context(cafile=cafile) if cafile else True


def _stands(place: str) -> None:
    sys.stdout.write(f"{place}\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        asyncio.run(decrypt(json.loads(sys.stdin.readline())))
