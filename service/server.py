"""How the service listens: uvicorn's settings, in one place, for `serve`, for `run` and for the tests."""

import asyncio
import json
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.errors import ConfigurationError

_log = logging.getLogger(__name__)

_GRACE_SECONDS = 10
_CLEAN_UP_SECONDS = 5.0
_IDLE_SECONDS = 30
_MAX_CONCURRENT = 1000
_SLICE = 4096
_HEAD_TOO_LARGE = json.dumps(
    {
        "type": "urn:vault-credentials:error:headers-too-large",
        "title": "The request's headers are too large.",
        "status": 431,
    }
).encode()


class State(ServerState):
    """uvicorn's, and whether the server is about to stop: then each answer ends its connection."""

    is_leaving = False


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, bounded for callers that nobody has authenticated yet: uvicorn itself bounds bodies alone.

    Guarantees: a connection holds at most `max_head_bytes` (and a slice of 4 kB) of a request line with its headers, or
    of a body's trailers and chunk extensions; more is answered with 431 (RFC 6585, 5), where an answer is due, and
    the connection closed. A connection whose request's headers are not complete `head_seconds` after it was opened, or
    after the request's first byte, is closed; between requests uvicorn's own idle time-out holds. Beyond
    `max_connections` at once, further ones are closed as they come. A client that leaves what was written to it, of any
    answer, for `unread_seconds` is cut off, which the application sees as its going away; until all of it is taken, no
    more is written. What the kernel's buffers hold counts as taken. A chunked body's trailers are dropped, and a target
    with a fragment, which no request has (RFC 9112, 3.2), is answered with 400; so is a version of HTTP other than 1.0
    and 1.1. A client that has more than `max_pipelined` requests waiting behind the one under way is cut off. What of a
    body comes after its answer has `head_seconds`. Does not: bound how long a body takes before (`json_body` and the
    proxy do), nor an answer that is read slowly.
    """

    max_head_bytes: ClassVar[int] = 65_536
    head_seconds: ClassVar[float] = 10.0
    max_connections: ClassVar[int] = 2 * _MAX_CONCURRENT
    unread_seconds: ClassVar[float] = 30.0
    max_pipelined: ClassVar[int] = 32

    _held = 0  # bytes that the parser has been given since it last handed over a head, or some of a body
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _under_way: Any = None  # the request that the application has

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Starts the clock for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        # By default 64 kB that wait to be read pause nothing, so nobody would notice that they stay.
        transport.set_write_buffer_limits(high=0)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clocks."""
        self._stop_deadline()
        self._stop_unread()
        super().connection_lost(exc)
        # uvicorn tells it to the last request of a pipeline alone, which the application doesn't have yet.
        if self._under_way is not None and not self._under_way.response_complete:
            self._under_way.disconnected = True
            self._under_way.message_event.set()

    def pause_writing(self) -> None:
        """Starts the clock for what is not taken."""
        super().pause_writing()
        # Not `close`, which would wait for the client to take it.
        self._unread = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """All of it is taken."""
        self._stop_unread()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser by slices, so that it is known how much it holds back."""
        if self._deadline is None and self._is_between_requests():
            self._start_deadline()
        for start in range(0, len(data), _SLICE):
            if self.transport.is_closing():
                return
            part = data[start : start + _SLICE]
            self._held += len(part)
            super().data_received(part)
            if self._held > self.max_head_bytes:
                self._refuse()
                return

    def on_headers_complete(self) -> None:
        """A head is complete: its request runs on other clocks."""
        self._held = 0
        self._stop_deadline()
        # uvicorn answers what a callback raises with 400.
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("another version of HTTP")
        if self.parser.get_http_version() == "1.0" and any(name == b"transfer-encoding" for name, _ in self.headers):
            raise ValueError("framing that HTTP/1.0 has not (RFC 9112, 6.1)")
        if b"#" in self.url:
            # The parser would drop it, and with it whatever somebody before us took for the path.
            raise ValueError("a target has a fragment")
        if len(self.pipeline) >= self.max_pipelined:
            # uvicorn reads no more once one waits, but what it has got in one piece (256 kB) it makes requests of, some
            # thousands, each of which takes a hundred times the memory of its bytes.
            self.transport.abort()
            return
        super().on_headers_complete()
        if self._is_leaving:
            self.cycle.keep_alive = False
        # uvicorn appends a body's trailers to the headers that the application has: an Authorization, or an X-User-Id,
        # that nobody before us has seen as one (RFC 9110, 6.5.1).
        self.headers = []

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._under_way = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Some of a body was handed over; how much of it is taken is the application's to say."""
        self._held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What follows is another request's."""
        self._held = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """What the application didn't read of a body, which may hold a secret, is let go of: uvicorn would keep it for
        as long as the connection is idle."""
        if self.cycle is not None and self.cycle.response_complete:  # else it is a pipelined request's, still to come
            self.cycle.body = bytearray()
        super().on_response_complete()

    def leave(self) -> None:
        """The server is about to stop: what is answered from now on says `Connection: close`, so that nobody sends a
        request on a connection that is being closed."""
        if self.cycle is not None and not self.cycle.response_started and not self.pipeline:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """As uvicorn's; but a request whose head has come in part is waited for, and answered."""
        if self._held and self._is_between_requests():
            return
        super().shutdown()

    @property
    def _is_leaving(self) -> bool:
        return isinstance(self.server_state, State) and self.server_state.is_leaving

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's; but in the middle of another answer's bytes it would be taken for a part of it."""
        cycle = self.cycle
        has_begun = cycle is not None and cycle.response_started and not cycle.response_complete
        if has_begun or self.pipeline:  # what is in the pipeline waits for an answer that is under way
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def _refuse(self) -> None:
        # In the middle of another answer's bytes a 431 would be taken for a part of it.
        if self._is_between_requests() and not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
                b"cache-control: no-store\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
                % (len(_HEAD_TOO_LARGE), _HEAD_TOO_LARGE)
            )
        self.transport.close()


def config(
    app: Any, *, host: str = "127.0.0.1", port: int = 8080, grace_seconds: int = _GRACE_SECONDS
) -> uvicorn.Config:
    """asyncio's own loop (uvloop keeps request bytes in a static buffer), httptools with `LimitedProtocol`'s bounds,
    uvicorn's 503 above 1000 connections or requests at once, and no access log: ours says who did what, uvicorn's would
    print paths and queries. `grace_seconds`: how long requests under way may take when it stops.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="asyncio",
        http=LimitedProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        limit_concurrency=_MAX_CONCURRENT,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
        backlog=512,
    )


class Server(uvicorn.Server):
    """uvicorn, telling when it listens, and leaving in order.

    SIGTERM: `when_leaving` is called, and for `drain_seconds` requests are taken as before, so that whoever sends them
    (a load balancer that asks `/readyz`) can notice; each answer says `Connection: close`. Then nothing is accepted any
    more, and what is under way ends, within the configuration's grace; what doesn't is cancelled, and has 5 s to note
    that it was. Only then is the application shut down, whatever signals have come: a second SIGTERM, or SIGINT at any
    time, ends the draining at once, a second SIGINT the grace as well, and neither anything else. Without a signal
    (`should_exit`) nothing is drained, nor is it where the service has not started.
    """

    def __init__(
        self,
        settings: uvicorn.Config,
        when_ready: Callable[[], None] | None = None,
        *,
        drain_seconds: float = 0.0,
        when_leaving: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(settings)
        self.server_state: State = State()
        self._when_ready = when_ready
        self._drain_seconds = drain_seconds
        self._when_leaving = when_leaving
        self._drains = False
        self._waits = True
        # uvicorn would shut the application down in the moment in which it cancels.
        self._grace, settings.timeout_graceful_shutdown = settings.timeout_graceful_shutdown, None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens what the application needs, then listens."""
        await super().startup(sockets)
        if self.started and self._when_ready is not None:
            self._when_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """A signal to stop."""
        self._drains = sig == signal.SIGTERM and not self.should_exit
        if sig == signal.SIGINT and sig in self._captured_signals:
            self._waits = False
        # Not uvicorn's, by which a SIGINT after another signal leaves out that the application is shut down.
        self.should_exit = True
        self._captured_signals.append(sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains, then stops."""
        if self._when_leaving is not None:
            self._when_leaving()
        self.server_state.is_leaving = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.leave()
        await self._drain()
        await super().shutdown(sockets)

    async def _wait_tasks_to_complete(self) -> None:
        """As uvicorn's, within the grace; what is cut then is waited for too."""
        ending = asyncio.create_task(super()._wait_tasks_to_complete())
        until = None if self._grace is None else time.monotonic() + self._grace
        while self._waits and (until is None or time.monotonic() < until):
            done, _ = await asyncio.wait({ending}, timeout=0.1)
            if done:
                await ending
                return
        ending.cancel()
        cut = list(self.server_state.tasks)
        if not cut:
            return
        _log.warning("requests under way are cut", extra={"count": len(cut)})
        for each in cut:
            each.cancel()
        _, left = await asyncio.wait(cut, timeout=_CLEAN_UP_SECONDS)
        if left:
            _log.warning("requests that were cut have not ended", extra={"count": len(left)})

    async def _drain(self) -> None:
        if not self._drains:
            return
        _log.info("leaving", extra={"drain_seconds": self._drain_seconds})
        until = time.monotonic() + self._drain_seconds
        ticks = 0
        while self._drains and time.monotonic() < until:
            await self.on_tick(ticks)  # the answers' date
            ticks += 1
            await asyncio.sleep(0.1)


def tcp_socket(family: int = socket.AF_INET) -> socket.socket:
    """A socket to listen on, not bound yet; the caller's to close."""
    # By its protocol's number asyncio knows TCP, and turns Nagle's delay off; without, an answer waits 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)


def bound(host: str, port: int) -> socket.socket:
    """The address, taken; the caller's to close. It refuses connections until the service listens.

    Raises:
        ConfigurationError: it can't be had. The message names the settings.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # One of a name's addresses: `localhost` is 127.0.0.1, on whatever machine.
        family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listener = tcp_socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError, UnicodeError):
        raise ConfigurationError(
            f"CREDENTIALS_HOST, CREDENTIALS_PORT: port {port} cannot be used there: it is taken, or not allowed"
        ) from None
    return listener


def serve(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    sockets: Sequence[socket.socket] | None = None,
    when_ready: Callable[[], None] | None = None,
    when_leaving: Callable[[], None] | None = None,
    drain_seconds: float = 0.0,
    grace_seconds: int = _GRACE_SECONDS,
) -> None:
    """Serves until SIGINT or SIGTERM, then leaves as `Server` does, and lets requests under way end (`grace_seconds`
    at most).

    Without `sockets` the address is taken here, before the application starts. The signal is raised again afterwards,
    for whoever handled it before (uvicorn's behaviour).

    Raises:
        ConfigurationError: the address can't be had; or the service did not start, and what failed has been logged.
    """
    with ExitStack() as stack:
        listeners = [stack.enter_context(bound(host, port))] if sockets is None else list(sockets)
        settings = config(app, host=host, port=port, grace_seconds=grace_seconds)
        server = Server(settings, when_ready, drain_seconds=drain_seconds, when_leaving=when_leaving)
        try:
            asyncio.run(server.serve(sockets=listeners))
        except SystemExit:  # uvicorn's, where the lifespan or the listening failed
            raise ConfigurationError("the service did not start; see the log above") from None
    if not server.started:
        raise ConfigurationError("the service did not start; see the log above")
