"""Answers of a `ScriptedServer` whose bodies a test has in its hands: piece by piece, without end, or held back."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from tests.doubles.scripted_server import Answer

_BLOCK = b"x" * 65_536
_LOOK_SECONDS = 0.02


class Streamed:
    """Sends what the test gives it, when it does. For one request.

    `started`: the head has been sent. `gone`: the client has hung up.
    """

    def __init__(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._status = status
        self._headers = headers
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_cut = False
        self.started = asyncio.Event()
        self.gone = asyncio.Event()

    async def send(self, piece: bytes) -> None:
        """Sends a piece, and returns when the socket has taken it or the client has gone."""
        self._pieces.put_nowait(piece)
        await self._pieces.join()

    def end(self) -> None:
        """Ends the body in order."""
        self._pieces.put_nowait(None)

    def cut(self) -> None:
        """Breaks the connection off."""
        self._is_cut = True
        self._pieces.put_nowait(None)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=self._status, headers=self._headers)
        await response.prepare(request)
        self.started.set()
        while True:
            try:
                piece = await asyncio.wait_for(self._pieces.get(), _LOOK_SECONDS)
            except TimeoutError:
                if is_gone(request):
                    self.gone.set()
                    return response
                continue
            if piece is None:
                if self._is_cut and request.transport is not None:
                    request.transport.abort()
                return response
            try:
                await response.write(piece)
            except ConnectionError:
                self.gone.set()
                return response
            finally:
                self._pieces.task_done()


class Endless:
    """Sends blocks until the client has gone, as fast as it takes them: `sent` tells how much that was."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self._headers = headers
        self.sent = 0
        self.gone = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._headers)
        await response.prepare(request)
        try:
            while not is_gone(request):
                await response.write(_BLOCK)
                self.sent += len(_BLOCK)
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        self.gone.set()
        return response


class SlowReader:
    """Reads a request's body only when told to, and answers with its length: with `reads_bodies` off.

    `read` tells how much has come; `broken`: it ended before its end.
    """

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        self.broken = asyncio.Event()
        self.read = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.started.set()
        while not (self.go.is_set() or is_gone(request)):  # noqa: ASYNC110 - one of the two has no event
            await asyncio.sleep(_LOOK_SECONDS)
        try:
            async for piece in request.content.iter_any():
                self.read += len(piece)
        except (ConnectionError, web.RequestPayloadError, asyncio.CancelledError):
            self.broken.set()
            raise
        if is_gone(request):
            self.broken.set()
        return web.json_response({"length": self.read})


def delayed(seconds: float, answer: Answer) -> Answer:
    """Answers the same, after a while."""

    async def later(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await answer(request)

    return later


def is_gone(request: web.Request) -> bool:
    """Whether the client of this request has hung up."""
    return request.transport is None or request.transport.is_closing()
