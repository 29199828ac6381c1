"""HTTP/1.1 as the service takes it: uvicorn's protocol, with bounds for callers whom nobody has authenticated yet."""

import asyncio
import json
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_CONCURRENT = 1000
"""Connections or requests at once, above which uvicorn answers 503."""

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
    max_connections: ClassVar[int] = 2 * MAX_CONCURRENT
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
