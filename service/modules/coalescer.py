"""Gathers calls that are made at the same time into batches, as a DataLoader does: one statement or request for many.

What waits while batches are under way becomes the next batch, so a lone call waits for nothing, and the more there is
to do, the less each costs (https://github.com/graphql/dataloader#batching is where the idea is from; the difference is
that no caller's result is kept).
"""

import asyncio
import contextvars
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from service import correlation, tracing
from service.correlation import Correlation
from service.errors import Busy, CredentialsError, again
from service.exception_location import exception_location
from service.measures import BatchMeter

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much is done at once, and how much may wait."""

    items: int
    """Calls in one batch."""
    under_way: int
    """Batches at the same time."""
    waiting: int
    """Calls that are in no batch yet."""
    size: int = 1_000_000
    """The sum of the calls' sizes in one batch; a call that is larger alone is a batch of its own."""


class _Call(Generic[Item, Result]):
    __slots__ = ("future", "item", "request", "since", "size")

    def __init__(
        self, item: Item, size: int, future: "asyncio.Future[Result]", since: float, request: Correlation | None
    ) -> None:
        self.item = item
        self.size = size
        self.future = future
        self.since = since
        self.request = request


class Coalescer(Generic[Item, Result]):
    """Runs `run` on lists of items, and hands each caller its own result, or its own error.

    Guarantees, within one event loop: a batch takes one call of each group in turn, so the many calls of one group
    don't hold up the one of another; where too much waits, it is the group with most calls that is told `Busy`, the
    newest of them first; a caller that gives up harms no other. Does not: repeat anything, keep the calls' order
    between groups, nor know that one program stands behind many groups.

    `run` gets one to `limits.items` items and returns as many results, in order; an exception in a place is for that
    caller alone, and one that it raises is for all (each gets an instance of its own). `discard` is called with a
    result whose caller has gone. `meter` is told of each batch when it begins.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        limits: BatchLimits,
        *,
        discard: Callable[[Result], None] = lambda _result: None,
        name: str = "coalescer",
        meter: BatchMeter | None = None,
    ) -> None:
        self._run = run
        self._limits = limits
        self._discard = discard
        self._name = name
        self._kind = name.partition(" ")[0]
        self._meter = meter
        # Whose turn is next comes first; of a group's calls, the oldest.
        self._groups: OrderedDict[str, OrderedDict[_Call[Item, Result], None]] = OrderedDict()
        self._waiting = 0
        self._batches: set[asyncio.Task[None]] = set()
        self._is_starting = False
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """Calls that are in no batch yet."""
        return self._waiting

    @property
    def under_way(self) -> int:
        """Batches at this moment."""
        return len(self._batches)

    async def call(self, item: Item, *, group: str, size: int = 0) -> Result:
        """The item's result.

        Raises:
            Busy: too much is waiting. Else what `run` raised, or returned in the item's place.
        """
        if self._is_closed:
            raise Busy("The service is stopping")
        if self._waiting >= self._limits.waiting:
            self._make_room(group)
        loop = asyncio.get_running_loop()
        call = _Call[Item, Result](item, size, loop.create_future(), loop.time(), correlation.current())
        calls = self._groups.get(group)
        if calls is None:
            calls = self._groups[group] = OrderedDict()
        calls[call] = None
        self._waiting += 1
        if not self._is_starting:
            self._start(loop)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._abandon(group, call)
            raise

    async def aclose(self) -> None:
        """Ends the batches under way and tells those who wait that the service is stopping."""
        self._is_closed = True
        for calls in self._groups.values():
            for call in calls:
                _fail(call, Busy("The service is stopping"))
        self._groups.clear()
        self._waiting = 0
        batches = list(self._batches)
        for batch in batches:
            batch.cancel()
        for batch in batches:
            with suppress(asyncio.CancelledError):
                await batch

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has a batch begin in the next turn of the loop, if one may: what others ask in this turn comes along."""
        if self._waiting and len(self._batches) < self._limits.under_way:
            self._is_starting = True
            # A batch belongs to no caller: with a context of its own it doesn't log under the request id of whoever
            # came first. Not by `loop.create_task`: an eager task factory would run it here and now.
            batch = asyncio.Task(self._work(loop), loop=loop, name=self._name, context=contextvars.Context())
            self._batches.add(batch)
            batch.add_done_callback(self._ended, context=contextvars.Context())

    def _ended(self, batch: "asyncio.Task[None]") -> None:
        # A task's callbacks are called after those of the futures it has set, and so after the callers have had
        # their results: what they ask next is waiting already.
        self._batches.discard(batch)
        if not self._is_starting and not self._is_closed:
            self._start(batch.get_loop())

    def _next(self) -> list[_Call[Item, Result]]:
        """One call of each group in turn, as many as a batch may have."""
        batch: list[_Call[Item, Result]] = []
        size = 0
        while self._groups and len(batch) < self._limits.items:
            group, calls = next(iter(self._groups.items()))
            call = next(iter(calls))
            size += call.size
            if batch and size > self._limits.size:
                break
            del calls[call]
            batch.append(call)
            if calls:
                self._groups.move_to_end(group)
            else:
                del self._groups[group]
        self._waiting -= len(batch)
        return batch

    async def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_starting = False
        batch = self._next()
        self._start(loop)
        if not batch:
            return  # whoever waited has given up
        if self._meter is not None:
            self._meter(len(batch), loop.time() - min([call.since for call in batch]))
        try:
            with tracing.batch_span(self._kind, [call.request for call in batch]):
                results = await self._run([call.item for call in batch])
            for call, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    _fail(call, result)
                elif call.future.done():
                    self._discard(result)
                else:
                    call.future.set_result(result)
        except asyncio.CancelledError:
            for call in batch:
                _fail(call, Busy("The service is stopping"))
            raise
        except CredentialsError as error:
            for call in batch:
                _fail(call, again(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, callers are waiting
            _log.error("a batch failed", extra={"batch": self._name, "exception": exception_location(error)})
            for call in batch:
                _fail(call, CredentialsError())

    def _abandon(self, group: str, call: _Call[Item, Result]) -> None:
        """The caller has gone: its call is taken out, or its result given back."""
        if call.future.cancelled():
            calls = self._groups.get(group)
            if calls is not None and call in calls:
                del calls[call]
                self._waiting -= 1
                if not calls:
                    del self._groups[group]
        elif call.future.done() and call.future.exception() is None:
            self._discard(call.future.result())

    def _make_room(self, group: str) -> None:
        """Takes a call from the group that has most waiting, for a group that has fewer. Raises Busy if none does."""
        if len(self._groups) == self._waiting:
            raise Busy  # none has more than one
        longest = max(self._groups, key=lambda each: len(self._groups[each]))
        if len(self._groups[longest]) <= len(self._groups.get(group, ())) + 1:
            raise Busy
        call, _ = self._groups[longest].popitem()
        self._waiting -= 1
        _fail(call, Busy())


def _fail(call: _Call[Item, Result], error: Exception) -> None:
    if not call.future.done():
        call.future.set_exception(error)


_Work = tuple[Callable[[], Awaitable[object]], Correlation | None]


class FairQueue:
    """Lets so many run at once, and the others wait: a semaphore with `Coalescer`'s bounds and fairness.

    What runs is worked on as for the request that asked for it (`correlation.py`).
    Does not: stop what has begun when its caller gives up.
    """

    def __init__(self, *, at_once: int, waiting: int, name: str, meter: BatchMeter | None = None) -> None:
        limits = BatchLimits(items=1, under_way=at_once, waiting=waiting)
        self._calls = Coalescer[_Work, object](_run_one, limits, name=name, meter=meter)

    async def run(self, work: Callable[[], Awaitable[Result]], *, group: str) -> Result:
        """What `work` returns. Raises what it raises, or Busy."""
        return cast(Result, await self._calls.call((work, correlation.current()), group=group))

    async def aclose(self) -> None:
        """As `Coalescer.aclose`."""
        await self._calls.aclose()


async def _run_one(works: list[_Work]) -> list[object]:
    ((work, request),) = works
    correlation.enter(request)  # in the batch's own context, which ends with it
    return [await work()]
