"""The client's requests: whose token goes where, what is sent again and what never is, and what an error holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest

from service.errors import (
    ConfigurationError,
    CredentialsError,
    RateLimited,
    ServiceOutcomeUnknown,
    ServiceUnavailable,
    VaultSealed,
)
from tests.shown import shown_by_reporters
from tests.support import canary
from tests.unit.client_double import GET, ID, Doing, Outcome, Piece, Service, client_of, held_by_frames, metadata, told


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long there would have been waited."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("service.client.exchange.asyncio.sleep", sleep)
    return waited


READ = ("get", lambda client: client.get(ID))
PROXY_GET = ("proxy GET", lambda client: client.proxy(ID, "GET", "v2/account"))
WRITES = [
    ("rollback", lambda client: client.rollback(ID)),
    ("delete", lambda client: client.delete(ID)),
    ("proxy POST", lambda client: client.proxy(ID, "POST", "v2/orders", json={"qty": "1"})),
    ("proxy DELETE", lambda client: client.proxy(ID, "DELETE", "v2/orders")),
    ("proxy OPTIONS", lambda client: client.proxy(ID, "OPTIONS", "v2/orders")),
]
NAMED = pytest.mark.parametrize("doing", [pytest.param(do, id=name) for name, do in WRITES])
READS = pytest.mark.parametrize("doing", [pytest.param(do, id=name) for name, do in (READ, PROXY_GET)])
TROUBLE = [
    httpx.ConnectError("refused"),
    httpx.ReadError("reset"),
    httpx.ReadTimeout("late"),
    httpx.RemoteProtocolError("closed"),
    told(503, "vault-unavailable"),
    told(502, "vault-denied"),
    told(429, "rate-limited"),
]


@READS
@pytest.mark.parametrize(
    "trouble", TROUBLE, ids=lambda each: type(each).__name__ + str(getattr(each, "status_code", ""))
)
async def test_a_read_is_tried_again(doing: Doing, trouble: Outcome) -> None:
    good = httpx.Response(200, json=metadata(), headers={"X-Answered-By": "provider"})
    service = Service(trouble, trouble, good)
    async with client_of(service) as client:
        await doing(client)
    assert len(service.seen) == 3


@NAMED
@pytest.mark.parametrize(
    "trouble", TROUBLE, ids=lambda each: type(each).__name__ + str(getattr(each, "status_code", ""))
)
async def test_nothing_but_a_read_is_ever_sent_twice(doing: Doing, trouble: Outcome) -> None:
    service = Service(trouble, GET)
    async with client_of(service) as client:
        with pytest.raises(CredentialsError):
            await doing(client)
    assert len(service.seen) == 1


@NAMED
@pytest.mark.parametrize("trouble", TROUBLE[1:4], ids=lambda each: type(each).__name__)
async def test_where_no_answer_comes_to_a_change_nobody_knows_what_became_of_it(doing: Doing, trouble: Outcome) -> None:
    async with client_of(Service(trouble)) as client:
        with pytest.raises(ServiceOutcomeUnknown):
            await doing(client)


@NAMED
async def test_what_was_never_sent_has_changed_nothing(doing: Doing) -> None:
    async with client_of(Service(httpx.ConnectError("refused"))) as client:
        with pytest.raises(ServiceUnavailable):
            await doing(client)


async def test_reads_are_tried_as_often_as_it_was_asked_for(waits: list[float]) -> None:
    service = Service(told(503, "vault-sealed", **{"Retry-After": "2"}))
    async with client_of(service, retries=3) as client:
        with pytest.raises(VaultSealed) as raised:
            await client.get(ID)
    assert len(service.seen) == 4
    assert raised.value.retry_after == 2.0
    assert len(waits) == 3
    assert all(2.0 <= wait <= 5.0 for wait in waits)


async def test_an_answer_that_asks_for_too_long_a_wait_is_the_last() -> None:
    service = Service(told(429, "rate-limited", **{"Retry-After": "6"}))
    async with client_of(service) as client:
        with pytest.raises(RateLimited):
            await client.get(ID)
    assert len(service.seen) == 1


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_a_providers_own_error_is_passed_on_and_not_tried_again(status: int) -> None:
    service = Service(httpx.Response(status, json={"code": 1}, headers={"X-Answered-By": "provider"}))
    async with client_of(service) as client:
        answer = await client.proxy(ID, "GET", "v2/account")
    assert (answer.status_code, answer.json(), answer.is_success) == (status, {"code": 1}, False)
    assert len(service.seen) == 1


@pytest.mark.parametrize(("method", "times"), [("GET", 3), ("HEAD", 3), ("POST", 1), ("DELETE", 1)])
async def test_the_head_of_a_stream_is_asked_for_again_where_it_is_a_read(method: str, times: int) -> None:
    service = Service(told(503, "busy"), httpx.ReadError("reset"), GET)
    service.outcomes[2].headers["X-Answered-By"] = "provider"  # type: ignore[union-attr]
    async with client_of(service) as client:
        with suppress(CredentialsError):
            async with client.proxy_stream(ID, method, "v2/account") as got:
                assert b"".join([part async for part in got.parts]) == GET.content
    assert len(service.seen) == times


@pytest.mark.parametrize("ending", [None, LookupError, asyncio.CancelledError])
async def test_a_stream_is_closed_when_its_block_ends_however_it_ends(ending: type[BaseException] | None) -> None:
    closed: list[bool] = []

    class Body(Piece):
        async def aclose(self) -> None:
            closed.append(True)

    class Streaming(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Body(b"x"), headers={"X-Answered-By": "provider"})

    async with client_of(Streaming()) as client:
        with suppress(LookupError, asyncio.CancelledError):
            async with client.proxy_stream(ID, "GET", "v2/account"):
                assert closed == []
                if ending is not None:
                    raise ending
    assert closed == [True]


async def test_a_read_with_a_body_is_sent_once() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    for content in (b"{}", pieces()):
        service = Service(httpx.ReadError("reset"))
        async with client_of(service) as client:
            with pytest.raises(ServiceUnavailable):
                await client.proxy(ID, "GET", "v2/account", content=content)
        assert len(service.seen) == 1


# --- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_each_request_and_each_try_asks_for_a_token(kind: str) -> None:
    made: list[str] = []

    def fresh() -> str:
        made.append(f"token-{len(made)}")
        return made[-1]

    async def later() -> str:
        return fresh()

    service = Service(httpx.ReadError("reset"), GET)
    async with client_of(service, token=fresh if kind == "function" else later) as client:
        await client.get(ID)
        await client.get(ID)
    assert service.tokens == ["Bearer token-0", "Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize("given", ["", "a b", "a\r\nX-User-Id: bob", "token\n", "tökén", None, b"token", 7], ids=repr)
async def test_what_is_no_token_is_not_sent_nor_shown(given: object) -> None:
    secret = canary()
    token = f"{secret}{given}" if isinstance(given, str) and given else given
    service = Service(GET)
    async with client_of(service, token=lambda: token) as client:
        with pytest.raises(ConfigurationError) as raised:
            await client.get(ID)
    assert service.seen == []
    assert not [where for where, text in shown_by_reporters(raised.value).items() if secret in text]


async def test_what_the_function_for_tokens_raises_comes_as_it_is() -> None:
    async def broken() -> str:
        raise LookupError("no login")

    async with client_of(Service(GET), token=broken) as client:
        with pytest.raises(LookupError, match="no login"):
            await client.get(ID)


async def test_a_function_for_tokens_that_takes_too_long_ends_the_try() -> None:
    async def slow() -> str:
        await asyncio.Event().wait()
        return "token"

    service = Service(GET)
    async with client_of(service, token=slow, timeout=0.01) as client:
        with pytest.raises(ServiceUnavailable, match="nothing was sent"):
            await client.get(ID)
    assert service.seen == []


@pytest.mark.parametrize(
    "trouble",
    [*TROUBLE, httpx.Response(307), told(403, "permission-denied"), httpx.Response(200, content=b"x")],
    ids=repr,
)
async def test_no_error_shows_the_token_nor_has_httpx_in_its_chain(trouble: Outcome) -> None:
    secret = canary("T")
    service = Service(trouble)
    async with client_of(service, token=lambda: secret) as client:
        with pytest.raises(CredentialsError) as raised:
            await client.get(ID)
        assert "authorization" not in service.seen[-1].headers or isinstance(trouble, Exception)
    assert secret in service.tokens[0]
    assert not [where for where, text in shown_by_reporters(raised.value).items() if secret in text]
    error: BaseException | None = raised.value
    while error is not None:
        assert type(error).__module__ == "service.errors"
        assert not [each for each in held_by_frames(error) if isinstance(each, httpx.Request | httpx.Response)]
        error = error.__cause__ or error.__context__


async def test_a_cancellation_leaves_without_the_request_that_it_stopped() -> None:
    secret, arrived = canary("T"), asyncio.Event()

    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _request: httpx.Request) -> httpx.Response:
            arrived.set()
            with suppress(LookupError):
                raise LookupError
            await asyncio.Event().wait()
            raise AssertionError

    async with client_of(Silent(), token=lambda: secret) as client:
        task = asyncio.create_task(client.delete(ID))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
    assert not [each for each in held_by_frames(raised.value) if isinstance(each, httpx.Request)]
    assert raised.value.__cause__ is None
    assert not [where for where, text in shown_by_reporters(raised.value).items() if secret in text]
