"""A fresh process that has a credential handed off to it by the orchestrator's client: as `target.py`, and told alike.

`python -m tests.zeroing.client_target`. It knows where the service is and has a token for it, and where Vault is.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.zeroing.target import DOINGS, waits
from tests.zeroing.without import take_away


async def main(told: dict[str, Any]) -> None:
    """Does what it was told, and then waits, its event loop running, to be ended."""
    from service.client import CredentialsClient, VaultOptions, tls_context

    cafile = os.environ.get("VAULT_CACERT")
    vault = VaultOptions(
        addr=os.environ["VAULT_ADDR"], tls=None if cafile is None else tls_context(cafile=Path(cafile)), timeout=30
    )
    async with CredentialsClient(told["url"], token=lambda: str(told["token"]), vault=vault, timeout=30) as client:
        await DOINGS[told["doing"]](lambda each: client.credential(each, user_id=told["user_id"]), told["ids"])
        await waits("at rest")


if __name__ == "__main__":
    _told = json.loads(sys.stdin.readline())
    take_away(_told["without"])
    asyncio.run(main(_told))
