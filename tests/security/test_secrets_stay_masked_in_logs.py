"""Every logger there is at DEBUG, uvicorn's and the drivers' too, asyncio in its debug mode: no line shows a secret.

Over a real socket, for requests that go well and for those that don't.
"""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from service.app import create_app
from service.composition import close_process_runtime, configure
from service.errors import CredentialDenied
from service.modules.credential_service import (
    get_decrypted_alpaca_credential,
    store_credential,
    validate_alpaca_credentials,
)
from service.server import Server, config
from service.settings import Settings
from tests.doubles.alpaca import AlpacaDouble
from tests.evidence import every_log_line, found
from tests.rest import Headers, new_body
from tests.stored import some_user
from tests.support import Stack, canary
from tests.written import Connection


@dataclass
class Logged:
    """What was logged, and the secrets that must not be in it."""

    lines: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def keys(self) -> dict[str, str]:
        body = {"api_key": canary("AK"), "secret_key": canary("SK")}
        self.secrets += body.values()
        return body

    def secret(self) -> str:
        self.secrets.append(canary())
        return self.secrets[-1]


@contextmanager
def serving_in_debug_mode(settings: Settings) -> Iterator[str]:
    """The service on a loop that logs each callback that it runs, with its arguments."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    ready = threading.Event()
    server = Server(config(create_app(settings)), ready.set)

    async def serve() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve(), debug=True), name="server in debug mode")
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@pytest.fixture(scope="module")
async def logged(stack: Stack, bearer: Callable[..., Headers]) -> Logged:
    made = Logged()
    user = some_user("logged")
    headers = bearer("user", user)
    async with AlpacaDouble() as alpaca:
        settings = stack.settings(alpaca_base_url=alpaca.url)
        with every_log_line() as made.lines, serving_in_debug_mode(settings) as url:
            async with httpx.AsyncClient(base_url=url, headers=headers) as rest:
                await _by_rest(made, rest, alpaca)
                await _badly(made, rest)
            await _hanging_up(made, url, headers)
            await _by_the_library(made, stack, settings, user)
    return made


async def _by_rest(made: Logged, rest: httpx.AsyncClient, alpaca: AlpacaDouble) -> None:
    body, key = new_body(**made.keys()), {"Idempotency-Key": str(uuid4())}
    for _ in range(2):
        answer = await rest.post("/v1/credentials", json=body, headers=key)
        assert answer.status_code == 201, answer.text
    path = answer.headers["location"]
    alpaca.open_account(body["api_key"], body["secret_key"])
    assert (await rest.post(f"{path}/validate")).json()["is_valid"] is True
    given = await rest.post("/v1/credentials/validate", json=made.keys())
    assert given.json()["is_valid"] is False
    assert (await rest.patch(path, json=made.keys())).status_code == 200
    assert (await rest.patch(path, json={"secret_key": made.keys()["secret_key"]})).status_code == 200
    assert (await rest.post(f"{path}/rollback")).status_code == 200
    alpaca.script(alpaca.silent)
    assert (await rest.post(f"{path}/validate", timeout=60)).status_code >= 500


async def _badly(made: Logged, rest: httpx.AsyncClient) -> None:
    cut = json.dumps(new_body(**made.keys()))[:-1]
    of_json = {"Content-Type": "application/json"}
    attempts: list[dict[str, Any]] = [
        {"content": cut, "headers": of_json},
        {"content": b'{"api_key": "' + made.secret().encode() + b"\xff", "headers": of_json},
        {"json": {**new_body(**made.keys()), made.secret(): made.secret()}},
        {"json": new_body(api_key=made.secret() + "é", secret_key=made.secret())},
        {"json": new_body(api_key=[made.secret()], secret_key=made.secret())},
        {"json": new_body(**made.keys(), credential_type="binance")},
        {"json": new_body(**made.keys()), "headers": {"Content-Type": "text/plain"}},
        {"json": new_body(**made.keys()) | {"padding": made.secret() + "x" * 20_000}},
    ]
    for attempt in attempts:
        answer = await rest.post("/v1/credentials", **attempt)
        assert 400 <= answer.status_code < 500
        assert found(made.secrets, {"answer": answer.text + str(answer.headers)}) == []


async def _hanging_up(made: Logged, url: str, headers: Headers) -> None:
    """A client that goes away in the middle of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    head = f"POST /v1/credentials HTTP/1.1\r\nHost: a\r\nAuthorization: {headers['Authorization']}\r\n"
    body = json.dumps(new_body(**made.keys()))
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body) + 1}\r\n\r\n{body}".encode())
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.transport.abort()
    assert await reader.read() == b""


async def _by_the_library(made: Logged, stack: Stack, settings: Settings, user: str) -> None:
    loop = asyncio.get_running_loop()
    conn: Connection = await asyncpg.connect(stack.runtime_url)
    was, loop.slow_callback_duration = loop.slow_callback_duration, 0
    loop.set_debug(True)
    configure(settings)
    try:
        keys = made.keys()
        credential = await store_credential(conn, str(uuid4()), user, "alpaca", **keys)
        async with get_decrypted_alpaca_credential(conn, credential, user) as pair:
            logging.getLogger("an.embedding.program").debug("opened %r", pair)
            assert pair == tuple(keys.values())
        assert (await validate_alpaca_credentials(**made.keys()))[0] is False
        with pytest.raises(CredentialDenied):
            async with get_decrypted_alpaca_credential(conn, credential, some_user()):
                pass
    finally:
        await close_process_runtime()
        configure(None)
        loop.set_debug(False)
        loop.slow_callback_duration = was
        await conn.close()


def test_no_line_of_any_logger_at_debug_shows_a_secret(logged: Logged) -> None:
    assert len(logged.secrets) > 20
    assert found(logged.secrets, {line[:80]: line for line in logged.lines}) == []


def test_the_loggers_were_really_at_debug(logged: Logged) -> None:
    names = {line.split(" ", 1)[0] for line in logged.lines}
    assert {"asyncio", "httpx", "uvicorn.error", "service.access"} <= names
    assert any(" Executing <" in line for line in logged.lines)
