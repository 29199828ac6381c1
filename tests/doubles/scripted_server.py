"""A real HTTP server on loopback that answers as a provider does, or as scripted: the doubles' common ground.

An `Answer` handles one request. `script` queues answers, each used once; when none is left, the server answers as the
provider would. `seen` holds what arrived, so that a test can tell what was sent, and how often.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

TYPE_JSON = "application/json"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class SeenRequest:
    """One request as it arrived."""

    method: str
    path_qs: str
    headers: Mapping[str, str]
    """Whatever their case."""
    target: str = ""
    """What stood in the request line, nothing decoded or normalised."""
    fields: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Every header line."""
    body: bytes | None = None
    """None where it did not come whole, or was left to the answer to read."""


class ScriptedServer:
    """Listens on a free loopback port between `async with`'s two ends. Subclasses say what the provider answers."""

    url: str
    reads_bodies = True
    """Whether a request's body is read, and kept in `seen`, before it is answered. Tests may switch it off."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.seen: list[SeenRequest] = []
        self._answers: deque[Answer] = deque()
        self._stopping = asyncio.Event()

    async def usual(self, request: web.Request) -> web.StreamResponse:
        """What the provider answers when nothing is scripted."""
        raise NotImplementedError

    def script(self, *answers: Answer) -> None:
        """Queues answers, each for one request."""
        self._answers.extend(answers)

    def reset(self) -> None:
        """Forgets what was scripted and seen."""
        self._answers.clear()
        self.seen.clear()

    async def silent(self, _request: web.Request) -> web.StreamResponse:
        """Answers nothing while the server lives."""
        await self._stopping.wait()
        return web.Response(status=503)

    async def trickle(self, request: web.Request) -> web.StreamResponse:
        """Sends a byte every now and then, each within any read time-out, and never ends."""
        response = web.StreamResponse(headers={"Content-Type": TYPE_JSON})
        await response.prepare(request)
        while not self._stopping.is_set():
            try:
                await response.write(b" ")
            except ConnectionError:  # the client has gone, as it should
                break
            await asyncio.sleep(0.05)
        return response

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=0)  # no limit
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"{'https' if self._tls else 'http'}://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = SeenRequest(
            request.method, request.path_qs, request.headers, request.raw_path, tuple(request.raw_headers)
        )
        self.seen.append(seen)
        if self.reads_bodies:
            seen.body = await request.read()
        answer = self._answers.popleft() if self._answers else self.usual
        return await answer(request)


def json_answer(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer:
    """A JSON document."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return answer


def raw_answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    """Any bytes, with the headers given."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer


def html_answer(status: int) -> Answer:
    """A page, as firewalls and load balancers answer in a provider's place."""
    return raw_answer(status, b"<html><body>blocked</body></html>", {"Content-Type": "text/html"})


def redirect_answer(location: str, status: int = 302) -> Answer:
    """Sends the client elsewhere."""
    return raw_answer(status, b"", {"Location": location})


def huge_answer(status: int, size: int) -> Answer:
    """Chunked, so that no Content-Length warns of it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Type": TYPE_JSON})
        await response.prepare(request)
        try:
            for _ in range(size // 8192):
                await response.write(b" " * 8192)
        except ConnectionError:  # the client has gone, as it should
            pass
        return response

    return answer


async def reset_answer(request: web.Request) -> web.StreamResponse:
    """Closes the connection without a word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def cut_answer(status: int) -> Answer:
    """Announces more than it sends, and closes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"account_number": ')
        if request.transport is not None:
            request.transport.abort()
        return response

    return answer


async def not_http_answer(request: web.Request) -> web.StreamResponse:
    """Bytes that are no HTTP."""
    if request.transport is not None:
        request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        request.transport.close()
    return web.Response()
