"""A proxied call's caller: read no faster than is taken, told when it hangs up, and not called for if it has gone."""

import asyncio
from typing import Any

import pytest

from service.api.proxy_caller import AsgiCaller
from service.errors import CallerGone
from service.modules.call_clock import CallClock

DISCONNECT = {"type": "http.disconnect"}


def piece(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


class Asgi:
    """Messages that come, and those that went."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.coming = list(messages)
        self.taken = 0
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if not self.coming:
            await asyncio.get_running_loop().create_future()  # for ever
        self.taken += 1
        return self.coming.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def clock() -> CallClock:
    return CallClock(idle=30, whole=30)


async def test_the_body_comes_whole_and_in_order() -> None:
    asgi = Asgi(piece(b"a"), piece(b""), piece(b"b"), piece(b"c", more=False))
    caller, running = AsgiCaller(asgi.receive, asgi.send, has_body=True), clock()
    async with running, caller.watched(running):
        assert [each async for each in caller.chunks()] == [b"a", b"b", b"c"]


async def test_no_more_is_read_than_is_taken() -> None:
    asgi = Asgi(*[piece(b"a") for _ in range(100)])
    caller, running = AsgiCaller(asgi.receive, asgi.send, has_body=True), clock()
    async with running, caller.watched(running):
        for _ in range(20):
            await asyncio.sleep(0)
        assert asgi.taken == 2  # one that waits, one that is to be put
        assert await anext(caller.chunks()) == b"a"


async def test_who_has_gone_is_not_called_for() -> None:
    asgi = Asgi(DISCONNECT)
    caller, running = AsgiCaller(asgi.receive, asgi.send, has_body=True), clock()

    async def called() -> None:
        async with running, caller.watched(running):
            pytest.fail("it was")

    with pytest.raises(CallerGone):
        await called()


async def test_who_goes_later_ends_the_call() -> None:
    asgi, begun = Asgi(piece(b"", more=False)), asyncio.Event()

    async def receive() -> Any:
        if asgi.taken:
            await begun.wait()
            return DISCONNECT
        return await asgi.receive()

    caller, running = AsgiCaller(receive, asgi.send, has_body=False), clock()

    async def called() -> None:
        async with running, caller.watched(running):
            await caller.begin(200, [])
            begun.set()
            await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        await called()
    assert running.hung_up


async def test_who_goes_when_all_is_said_ends_nothing() -> None:
    asgi = Asgi(piece(b"", more=False))
    caller, running = AsgiCaller(asgi.receive, asgi.send, has_body=False), clock()
    async with running, caller.watched(running):
        await caller.begin(204, [(b"Set-Cookie", b"a")])
        await caller.end()
        asgi.coming.append(DISCONNECT)
        for _ in range(5):
            await asyncio.sleep(0)
    assert not running.hung_up
    assert asgi.sent == [
        {"type": "http.response.start", "status": 204, "headers": [(b"x-answered-by", b"provider")]},
        {"type": "http.response.body", "body": b""},
    ]
