"""Garbage that refers to itself is freed, and so wiped, only when the collector comes by: here it comes often.

A failed request's traceback and its frames refer to each other, and to the secret in them. Left to itself the collector
looks at old objects after many thousands of allocations, perhaps never. What makes looking at everything cheap is that
all there was at start-up is set aside first (https://docs.python.org/3/library/gc.html#gc.freeze).
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from service.correlation import start_alone
from service.memory.zeroing import wipe_stack

_SHARE = 0.04
"""Of the time, at most, that is spent on what `soon` asks for: a flood of requests does not collect for each."""

_STACK = 262_144
"""Bytes: more than a request's coroutines go down from where the event loop calls them."""


class Collector:
    """Collects every `interval` seconds, and soon after it is asked to.

    Guarantees, while `running`: garbage that was there when `soon` was called is collected in one of the event loop's
    next turns, or, where collections are many, when they have made up 4 % of the time since the last one; and whatever
    is garbage is collected within `interval` seconds of a loop that isn't blocked. Does not: free what something still
    refers to. The loop stands still while it collects (a millisecond or two).
    """

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: asyncio.Handle | None = None
        self._ended = float("-inf")
        self._took = 0.0
        self.runs = 0
        """How often it has collected."""
        self.seconds = 0.0
        """How long that took, in all."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sets aside what there is, then collects until the block ends. For a process of its own: this is process-wide.

        Objects that were set aside and become garbage that refers to itself stay until the block ends.
        """
        gc.collect()
        gc.freeze()
        self._loop = asyncio.get_running_loop()
        timer = start_alone(self._on_timer(), "garbage collection")
        try:
            yield
        finally:
            timer.cancel()
            with suppress(asyncio.CancelledError):
                await timer
            if self._due is not None:
                self._due.cancel()
                self._due = None
            self._loop = None
            gc.unfreeze()
            self.collect()

    def soon(self) -> None:
        """Asks for a collection once the caller's own frames are gone. From the loop's thread; where it isn't running,
        nothing happens.
        """
        if self._loop is None or self._due is not None:
            return
        wait = self._ended + self._took / _SHARE - time.monotonic()
        self._due = self._loop.call_later(wait, self.collect) if wait > 0 else self._loop.call_soon(self.collect)

    def collect(self) -> None:
        """Collects all generations, now; and clears what functions that have returned left on the C stack."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        began = time.monotonic()
        gc.collect()
        wipe_stack(_STACK)
        self._ended = time.monotonic()
        self._took = self._ended - began
        self.runs += 1
        self.seconds += self._took

    async def _on_timer(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self.collect()


class CollectAfterSecrets:
    """ASGI middleware: asks the runtime's collector, if it has one, to come by after a request that may have carried a
    secret or opened one, however it ended: any but GET and HEAD, and those too at a proxied call's address.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] in ("GET", "HEAD") and "/proxy/" not in scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            collector = getattr(getattr(scope["app"].state, "runtime", None), "collector", None)
            if collector is not None:
                collector.soon()
