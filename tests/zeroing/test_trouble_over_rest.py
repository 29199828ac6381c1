"""Nothing is left of a secret, either, when the request that brought it fails, or is not even finished."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from uuid import uuid4

import httpx
import pytest

from tests.doubles.alpaca import AlpacaDouble
from tests.doubles.scripted_server import Answer, html_answer, reset_answer
from tests.support import Stack
from tests.zeroing.conftest import COLLECT_SECONDS, Ledger, Way
from tests.zeroing.processes import Keys, Service, pair, scan, service
from tests.zeroing.rest import Bearer


@pytest.fixture
def way(ways: dict[str, Way]) -> Way:
    """Trouble is the same over both."""
    return ways["http"]


@pytest.fixture(scope="module")
async def served(ways: dict[str, Way]) -> AsyncIterator[Service]:
    """One service for all of these: each looks for keys of its own."""
    environment = {
        **ways["http"].environment,
        "CREDENTIALS_VAULT_TIMEOUT": "1",
        "CREDENTIALS_VAULT_RETRIES": "1",
        "CREDENTIALS_PROVIDER_TIMEOUT": "1",
        "CREDENTIALS_COLLECT_SECONDS": str(COLLECT_SECONDS),
    }
    async with service(environment) as started:
        yield started


def _body(keys: Keys, **changes: object) -> dict[str, object]:
    return {
        "account_id": str(uuid4()),
        "credential_type": "alpaca",
        "api_key": keys[0],
        "secret_key": keys[1],
    } | changes


def _whole(keys: Keys) -> bytes:
    return json.dumps(_body(keys)).encode()


def _twice(keys: Keys) -> bytes:
    return b'{"api_key": %s, %s' % (json.dumps(keys[0]).encode(), _whole(keys)[1:])


def _head(bearer: Bearer, length: int, **changes: str) -> bytes:
    headers = {
        "Host": "service",
        "Content-Type": "application/json",
        "Content-Length": str(length),
        **bearer("user", "somebody"),
        **changes,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return f"POST /v1/credentials HTTP/1.1\r\n{lines}\r\n".encode()


REFUSED: dict[str, tuple[Callable[[Keys], bytes], int]] = {
    "malformed JSON": (lambda keys: _whole(keys)[:-1], 422),
    "JSON with something after it": (lambda keys: _whole(keys) + b"}", 422),
    "a key that is there twice": (_twice, 422),
    "a body that is a list": (lambda keys: b"[%s]" % _whole(keys), 422),
    "a secret in place of the body": (lambda keys: json.dumps(" ".join(keys)).encode(), 422),
    "bytes that are not UTF-8": (lambda keys: _whole(keys) + b"\xff", 422),
    "a field that there isn't": (lambda keys: json.dumps(_body(keys, secret=keys[1])).encode(), 422),
    "a secret as a field's name": (lambda keys: json.dumps(_body(keys) | {keys[0]: 1}).encode(), 422),
    "a secret in the wrong field": (lambda keys: json.dumps(_body(keys, account_id=keys[0])).encode(), 422),
    "a type that there isn't": (lambda keys: json.dumps(_body(keys, credential_type=keys[1])).encode(), 422),
    "a key that is a list": (lambda keys: json.dumps(_body(keys, api_key=list(keys))).encode(), 422),
    "a key with a letter of no key": (lambda keys: json.dumps(_body(keys, api_key=keys[0] + "é")).encode(), 422),
    "a NUL in a key": (lambda keys: json.dumps(_body(keys, api_key=keys[0] + "\0")).encode(), 422),
    "a body too large": (lambda keys: _whole(keys) + b" " * 100_000, 413),
    "deep nesting": (lambda keys: b'{"api_key": %s, "a": %s' % (json.dumps(keys[0]).encode(), b"[" * 9_000), 422),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_refused_body_leaves_nothing(what: str, ledger: Ledger, served: Service, bearer: Bearer) -> None:
    keys, (make, status) = pair(list(REFUSED).index(what)), REFUSED[what]
    async with served.client(bearer("user", "somebody")) as client:
        answer = await client.post("/v1/credentials", content=make(keys), headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        await ledger.gone(f"after {what}", "over REST", served.pid, keys)


@pytest.mark.parametrize(
    ("what", "changes", "status"),
    [
        ("no token", {"Authorization": ""}, 401),
        ("another content type", {"Content-Type": "text/plain"}, 415),
        ("an announced body too large", {"Content-Length": "100000"}, 413),
    ],
)
async def test_a_body_that_is_not_even_read_leaves_nothing_while_its_connection_is_kept(
    what: str, changes: dict[str, str], status: int, ledger: Ledger, served: Service, bearer: Bearer
) -> None:
    keys = pair(7)
    body = _whole(keys)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    with closing(writer):
        # Head and body at once, so that the body has arrived when the answer is given.
        writer.write(_head(bearer, len(body), **changes) + body)
        assert (await reader.readline()).split()[1] == str(status).encode()
        await ledger.gone(f"after {what}", "over REST", served.pid, keys)


async def test_a_chunked_body_that_grows_too_large_leaves_nothing(
    ledger: Ledger, served: Service, bearer: Bearer
) -> None:
    keys = pair(8)

    async def chunks() -> AsyncIterator[bytes]:
        yield _whole(keys)[:-1]
        for _ in range(20):
            await asyncio.sleep(0.001)
            yield b" " * 4096

    async with served.client(bearer("user", "somebody")) as client:
        with suppress(httpx.WriteError):
            answer = await client.post(
                "/v1/credentials", content=chunks(), headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        await ledger.gone("after a chunked body too large", "over REST", served.pid, keys)


@pytest.mark.parametrize("sent", ["most of the body", "all but its last byte", "all of it"])
async def test_a_client_that_hangs_up_mid_request_leaves_nothing(
    sent: str, way: Way, ledger: Ledger, served: Service, bearer: Bearer
) -> None:
    keys = pair(9)
    body = _whole(keys)
    parts = {"most of the body": len(body) * 2 // 3, "all but its last byte": len(body) - 1, "all of it": len(body)}
    _reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    async with way.vault.holding("/transit/encrypt/"):
        writer.write(_head(bearer, len(body)) + body[: parts[sent]])
        await writer.drain()
        if sent == "all of it":
            await way.vault.held()
        else:
            await asyncio.sleep(0.3)
        inside = await scan(served.pid, keys)
        ledger.note("while the client is there", sent, served.pid, keys, inside)
        assert inside.windows > 0
        writer.transport.abort()
        if sent != "all of it":
            await ledger.gone(f"after hanging up, {sent} sent", "over REST", served.pid, keys)
    # What was sent whole is stored all the same, now that Vault has answered.
    await asyncio.sleep(0.5)
    await ledger.gone(f"after hanging up, {sent} sent", "over REST", served.pid, keys)


async def test_a_time_out_of_vault_leaves_nothing(way: Way, ledger: Ledger, served: Service, bearer: Bearer) -> None:
    keys = pair(10)
    async with served.client(bearer("user", "somebody")) as client, way.vault.holding("/transit/encrypt/"):
        answer = await client.post("/v1/credentials", json=_body(keys))
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        await ledger.gone("after a time-out of Vault", "over REST", served.pid, keys)


@pytest.mark.parametrize(
    "trouble",
    [
        lambda _double: html_answer(503),
        lambda _double: html_answer(403),
        lambda _double: reset_answer,
        lambda double: double.silent,
        lambda double: double.trickle,
    ],
    ids=["out-of-order", "a-firewall", "a-reset", "silence", "a-trickle"],
)
async def test_keys_that_could_not_be_validated_leave_nothing(
    trouble: Callable[[AlpacaDouble], Answer], way: Way, ledger: Ledger, served: Service, bearer: Bearer
) -> None:
    keys = pair(11)
    way.alpaca.script(trouble(way.alpaca))
    async with served.client(bearer("user", "somebody")) as client:
        answer = await client.post("/v1/credentials/validate", json={"api_key": keys[0], "secret_key": keys[1]})
        assert answer.status_code >= 500
        await ledger.gone("after a provider's trouble", "over REST", served.pid, keys)


async def test_keys_that_are_refused_leave_nothing(
    way: Way, ledger: Ledger, served: Service, bearer: Bearer, stack: Stack
) -> None:
    keys = pair(12)
    async with served.client(bearer("user", "somebody")) as client:
        answer = await client.post("/v1/credentials/validate", json={"api_key": keys[0], "secret_key": keys[1]})
        assert answer.json()["is_valid"] is False
        await ledger.gone("after keys that Alpaca refuses", "over REST", served.pid, keys)


async def test_the_same_store_sent_again_leaves_nothing(ledger: Ledger, served: Service, bearer: Bearer) -> None:
    keys = pair(13)
    body, headers = _body(keys), {**bearer("user", "somebody"), "Idempotency-Key": str(uuid4())}
    async with served.client(headers) as client:
        first, second = [await client.post("/v1/credentials", json=body) for _ in range(2)]
        assert first.json()["id"] == second.json()["id"]
        await ledger.gone("after the same store, twice", "over REST", served.pid, keys)
