"""The clocks of a call that is passed on: how long it may stand still, how long last; and its caller's hang-up."""

import asyncio
from types import TracebackType
from typing import Self


class CallClock:
    """`async with clock:` ends the block with a TimeoutError when a clock runs out, or at `hang_up`.

    Guarantees: the block is cancelled between `idle` and twice `idle` seconds after the last `moved`, at most `whole`
    seconds after it began, and at once by `hang_up`; `moved` costs next to nothing. Does not: end a block that catches
    its cancellation and goes on.
    """

    def __init__(self, *, idle: float, whole: float) -> None:
        self._idle = idle
        self._whole = whole
        self._moved = False
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self.hung_up = False
        """Whether it was the caller who ended it."""

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + self._whole
        self._wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._timeout.__aexit__(kind, error, traceback)

    def moved(self) -> None:
        """Something has gone one way or the other."""
        self._moved = True

    def hang_up(self) -> None:
        """The caller has gone: the block is to end now. Outside of the block nothing happens."""
        if self._timer is not None:
            self.hung_up = True
            self._expire()

    def _wait(self) -> None:
        self._moved = False
        self._timer = self._loop.call_at(min(self._loop.time() + self._idle, self._end), self._look)

    def _look(self) -> None:
        if self._moved and self._loop.time() < self._end:
            self._wait()
        else:
            self._expire()

    def _expire(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timeout.reschedule(self._loop.time())
