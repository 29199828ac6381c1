"""How the service listens: uvicorn's settings, in one place, for `serve`, for `run` and for the tests."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any

import uvicorn

from service.errors import ConfigurationError
from service.http_protocol import MAX_CONCURRENT, LimitedProtocol, State

_log = logging.getLogger(__name__)

_GRACE_SECONDS = 10
_CLEAN_UP_SECONDS = 5.0
_IDLE_SECONDS = 30


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
        limit_concurrency=MAX_CONCURRENT,
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
