"""A proxied call streams: no faster than the slower side takes it, in bounded memory, and each side's end is heard."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from aiohttp import web

from tests.doubles.scripted_server import cut_answer, json_answer
from tests.doubles.streams import Endless, SlowReader, Streamed, is_gone
from tests.proxying import ACCOUNT, Held, Proxied, proxied, raw, refusal, until
from tests.rest import Headers
from tests.support import Stack

MOST_HELD = 100_000_000
"""Bytes: what the kernel's buffers of two connections may hold (tcp_rmem, tcp_wmem: 36 MB each on some), and ours."""


@pytest.fixture(scope="module")
async def service(stack: Stack, bearer: Callable[..., Headers]) -> AsyncIterator[Proxied]:
    async with proxied(stack, bearer) as made:
        yield made


@pytest.fixture(autouse=True)
async def _as_it_was(service: Proxied) -> AsyncIterator[None]:
    service.alpaca.reset()
    yield
    service.alpaca.reads_bodies = True


Connect = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def connect(service: Proxied) -> AsyncIterator[Connect]:
    """Connects to the service; what is still open at the test's end is closed."""
    writers: list[asyncio.StreamWriter] = []

    async def connected(limit: int = 65_536) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=limit)
        writers.append(writer)
        return reader, writer

    yield connected
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


def _head(held: Held, method: str, path: str, *fields: str) -> bytes:
    lines = (f"{method} {held.address(path)} HTTP/1.1", "Host: x", f"Authorization: {held.headers['Authorization']}")
    return "".join(f"{line}\r\n" for line in (*lines, *fields, "")).encode()


# --- the answer -------------------------------------------------------------------------------------------------------


async def test_each_piece_of_an_answer_comes_when_it_is_sent(service: Proxied) -> None:
    held, streamed = await service.held(), Streamed()
    service.alpaca.script(streamed)
    async with service.client.stream("GET", held.address(ACCOUNT), headers=held.headers) as answer:
        pieces = answer.aiter_raw()
        for piece in (b"one", b"two", b"three"):
            await streamed.send(piece)
            assert await anext(pieces) == piece
        streamed.end()
        assert [piece async for piece in pieces] == []


async def test_a_slow_caller_slows_the_provider_down_and_one_who_hangs_up_ends_it(
    service: Proxied, connect: Connect
) -> None:
    held, endless = await service.held(), Endless()
    service.alpaca.script(endless)
    _, writer = await connect(limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
    writer.write(_head(held, "GET", ACCOUNT))
    await until(lambda: endless.sent > 0)
    before = -1
    while endless.sent != before:  # until nobody takes any more
        before = endless.sent
        await asyncio.sleep(0.3)
    assert endless.sent < MOST_HELD
    writer.transport.abort()
    async with asyncio.timeout(30):
        await endless.gone.wait()


async def test_a_caller_who_hangs_up_before_there_is_an_answer_ends_the_call(
    service: Proxied, connect: Connect
) -> None:
    held = await service.held()
    gone = asyncio.Event()

    async def waiting(request: web.Request) -> web.StreamResponse:
        while not is_gone(request):  # noqa: ASYNC110 - there is no event of it
            await asyncio.sleep(0.02)
        gone.set()
        return web.Response()

    service.alpaca.script(waiting)
    _, writer = await connect()
    writer.write(_head(held, "GET", ACCOUNT))
    await until(lambda: bool(service.alpaca.seen))
    writer.close()
    async with asyncio.timeout(30):
        await gone.wait()


@pytest.mark.parametrize("length", [{}, {"Content-Length": "1000"}], ids=["chunked", "with-length"])
async def test_an_answer_that_is_cut_off_does_not_look_whole(length: dict[str, str], service: Proxied) -> None:
    held, streamed = await service.held(), Streamed(headers=length)
    service.alpaca.script(streamed)
    async with service.client.stream("GET", held.address(ACCOUNT), headers=held.headers) as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_raw()
        await streamed.send(b"half")
        assert await anext(pieces) == b"half"
        streamed.cut()
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)


@pytest.mark.parametrize(("method", "path"), [("GET", ACCOUNT), ("POST", "v2/orders")])
async def test_nor_does_it_over_the_socket(method: str, path: str, service: Proxied) -> None:
    held = await service.held()
    service.alpaca.script(cut_answer(200))
    answer = await raw(service.port, _head(held, method, path, "Content-Length: 0"))
    assert answer.status == 200
    assert b"content-length: 1000" in answer.head
    assert answer.body == b'{"account_number": '  # and the connection is closed


async def test_a_chunked_answer_that_is_cut_off_has_no_last_chunk(service: Proxied) -> None:
    held, streamed = await service.held(), Streamed()
    service.alpaca.script(streamed)
    answering = asyncio.ensure_future(raw(service.port, _head(held, "GET", ACCOUNT)))
    await streamed.started.wait()
    await streamed.send(b"half")
    streamed.cut()
    answer = await answering
    assert answer.body.startswith(b"4\r\nhalf\r\n")
    assert b"0\r\n\r\n" not in answer.body


# --- the body ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_slow_provider_slows_the_caller_down(chunked: bool, service: Proxied, connect: Connect) -> None:
    held, slow = await service.held(), SlowReader()
    size = 160_000_000
    service.alpaca.reads_bodies = False
    service.alpaca.script(slow)
    sent = 0
    reader, writer = await connect()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    writer.write(_head(held, "POST", "v2/orders", framing, "Connection: close"))
    block = b"x" * 50_000

    async def sending() -> None:
        nonlocal sent
        while sent < size:
            writer.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
            await writer.drain()
            sent += len(block)
        if chunked:
            writer.write(b"0\r\n\r\n")

    task = asyncio.create_task(sending())
    await slow.started.wait()
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.3)
    assert sent < MOST_HELD, "all of it was taken, while the provider took none"
    assert slow.read == 0
    slow.go.set()
    await task
    async with asyncio.timeout(60):
        answer = await reader.read()
    assert b'{"length": %d}' % size in answer


async def test_a_body_that_breaks_off_breaks_off_for_the_provider_too(service: Proxied, connect: Connect) -> None:
    held, slow = await service.held(), SlowReader()
    slow.go.set()
    service.alpaca.reads_bodies = False
    service.alpaca.script(slow)
    _, writer = await connect()
    writer.write(_head(held, "POST", "v2/orders", "Content-Length: 100") + b"half of it")
    await until(lambda: slow.read > 0)
    writer.close()
    async with asyncio.timeout(30):
        await slow.broken.wait()
    assert slow.read == len(b"half of it")


async def test_a_body_is_asked_for_when_the_call_may_be_made_and_not_before(service: Proxied, connect: Connect) -> None:
    held = await service.held()
    reader, writer = await connect()
    body = b'{"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}'
    fields = ("Expect: 100-continue", f"Content-Length: {len(body)}", "Content-Type: application/json")
    writer.write(_head(held, "POST", "v2/orders", *fields))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert "expect" not in service.alpaca.seen[-1].headers
    refused = await raw(service.port, _head(held, "POST", "v2/wallets", *fields, "Connection: close"))
    assert refused.status == 403
    assert b"100 Continue" not in refused.head


async def test_an_answer_before_the_bodys_end_costs_the_connection_and_mixes_nothing(
    service: Proxied, connect: Connect
) -> None:
    held = await service.held()
    service.alpaca.reads_bodies = False
    service.alpaca.script(json_answer(413, {"early": True}))
    reader, writer = await connect()
    writer.write(_head(held, "POST", "v2/orders", "Content-Length: 1000") + b"GET /v2/smuggled HTTP/1.1\r\n\r\n")
    assert b" 413 " in await reader.readuntil(b"\r\n\r\n")
    service.alpaca.reads_bodies = True
    for _ in range(3):
        assert (await service.call(held, "GET")).json()["cash"] == "100000"
    assert [each.target for each in service.alpaca.seen] == ["/v2/orders", *["/v2/account"] * 3]


# --- clocks and bounds ------------------------------------------------------------------------------------------------


async def test_the_clocks_end_what_stands_still_or_lasts(stack: Stack, bearer: Callable[..., Headers]) -> None:
    async with proxied(stack, bearer, proxy_idle_seconds=0.3, proxy_call_seconds=2.0) as service:
        held = await service.held()
        service.alpaca.script(service.alpaca.silent, service.alpaca.silent)
        assert refusal(await service.call(held, "GET")) == (503, "provider-unavailable")
        assert refusal(await service.call(held, "DELETE", "v2/orders")) == (502, "provider-outcome-unknown")
        service.alpaca.script(service.alpaca.trickle)  # moves all the time, and never ends
        with pytest.raises(httpx.RemoteProtocolError):
            await service.call(held, "GET")
        assert len(service.alpaca.seen) == 3
        # A body that doesn't come.
        answer = await raw(service.port, _head(held, "POST", "v2/orders", "Content-Length: 9", "Connection: close"))
        assert answer.status == 502


async def test_more_calls_than_may_be_under_way_are_refused_and_one_user_cannot_hold_them_all(
    stack: Stack, bearer: Callable[..., Headers]
) -> None:
    async with proxied(stack, bearer, proxy_calls_at_once=3, proxy_calls_at_once_user=2) as service:
        held, other = await service.held(), await service.held()
        streams = [Streamed() for _ in range(3)]
        service.alpaca.script(*streams)
        calls = [asyncio.ensure_future(service.call(each, "GET")) for each in (held, held)]
        await until(lambda: len(service.alpaca.seen) == 2)
        refused = await service.call(held, "GET")
        assert (refusal(refused), refused.headers["retry-after"]) == ((503, "busy"), "1")
        calls.append(asyncio.ensure_future(service.call(other, "GET")))
        await until(lambda: len(service.alpaca.seen) == 3)
        assert refusal(await service.call(other, "POST", "v2/orders")) == (503, "busy")
        assert len(service.alpaca.seen) == 3
        for each in streams:
            each.end()
        assert [(await call).status_code for call in calls] == [200] * 3
        assert (await service.call(held, "GET")).status_code == 200


async def test_one_caller_cannot_hold_all_calls_whoever_it_acts_for(
    stack: Stack, bearer: Callable[..., Headers]
) -> None:
    async with proxied(stack, bearer, proxy_calls_at_once=3, proxy_calls_at_once_caller=2) as service:
        robot, holders = bearer("orchestrator", "robot"), [await service.held() for _ in range(3)]
        streams = [Streamed() for _ in range(2)]
        service.alpaca.script(*streams)

        def called(held: Held) -> "asyncio.Future[httpx.Response]":
            acting = Held(held.id, held.user_id, {**robot, "X-User-Id": held.user_id}, held.keys)
            return asyncio.ensure_future(service.call(acting, "GET"))

        calls = [called(each) for each in holders[:2]]
        await until(lambda: len(service.alpaca.seen) == 2)
        assert refusal(await called(holders[2])) == (503, "busy")
        other = await service.held()
        assert (await service.call(other, "GET")).status_code == 200
        for each in streams:
            each.end()
        assert [(await call).status_code for call in calls] == [200] * 2
