"""The caller of a proxied call, as ASGI has it: a body that comes, an answer that goes, somebody who may hang up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive, Send

from service.api.proxy_headers import to_caller
from service.errors import CallerGone
from service.modules.call_clock import CallClock

_WAITING = 1  # chunks read ahead of the provider; uvicorn's are at most its reading buffer (256 kB)


class AsgiCaller:
    """Implements `ProxyCaller`.

    Guarantees: the body is asked for when somebody is there to send it on, which is also when uvicorn answers
    `Expect: 100-continue`; of it at most two chunks are held here, and what uvicorn reads ahead (64 kB, then it stops
    reading). Does not: notice that a caller hangs up whose body has more to come than is read ahead, while the provider
    takes none of it: then the clock ends it.
    """

    def __init__(self, receive: Receive, send: Send, *, has_body: bool) -> None:
        self._receive = receive
        self._send = send
        self._has_body = has_body
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)
        self.begun = False
        """Whether the answer's head was sent."""
        self.ended = False
        """Whether all of the answer was sent."""

    @property
    def has_body(self) -> bool:
        return self._has_body

    async def chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self._chunks.get():
            yield chunk

    @asynccontextmanager
    async def watched(self, clock: CallClock) -> AsyncIterator[None]:
        reading = asyncio.create_task(self._read(clock), name="proxied caller")
        try:
            # Whoever has gone by now (or whose body the server could not parse) is not called for at all.
            await asyncio.sleep(0)
            if clock.hung_up:
                raise CallerGone
            yield
        finally:
            reading.cancel()

    async def _read(self, clock: CallClock) -> None:
        is_whole = False
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                if not self.ended:
                    clock.hang_up()
                return
            if is_whole:
                continue
            if self._has_body and message.get("body"):
                await self._chunks.put(message["body"])
                clock.moved()
            is_whole = not message.get("more_body")
            if is_whole and self._has_body:
                await self._chunks.put(b"")

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.begun = True
        await self._send(
            {"type": "http.response.start", "status": status, "headers": to_caller(headers, status=status)}
        )

    async def write(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": b""})
