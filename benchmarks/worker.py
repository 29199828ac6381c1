"""A contender's process: opens credentials when it is told to, in a closed loop, and says how fast.

One JSON object a line. Standard input: the `Terms`, then an `Order` for each round. The answers go to what was standard
output; whatever the libraries print goes to standard error.
"""

import asyncio
import cProfile
import io
import json
import os
import pstats
import random
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from benchmarks.contender import Opener, Terms
from benchmarks.loading import Loaded
from benchmarks.ratios import ONE_BY_ONE, USUAL, quantile
from benchmarks.zeroing_state import zeroing_line

_PROFILE_LINES = 45


@dataclass(frozen=True, slots=True)
class Order:
    """One round. `once`: every credential once, instead of random ones for `seconds` after `warm_up` seconds."""

    callers: int
    seconds: float
    warm_up: float
    once: bool = False
    fresh: bool = False
    """Close and open the contender before, so that it holds nothing from earlier rounds."""
    profile: bool = False


@dataclass(slots=True)
class Outcome:
    """What a round gave. `opens` counts the warm-up's too: CPU time is divided by it."""

    opens: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failures: int
    first_failure: str | None
    profile: str | None = None


class _Round:
    def __init__(self, opener: Opener, credentials: list[Loaded], order: Order) -> None:
        self._opener = opener
        self._credentials = credentials
        self._order = order
        self._latencies = array("d")
        self._opens = 0
        self._failures = 0
        self._first_failure: str | None = None

    async def run(self) -> Outcome:
        began = time.perf_counter()
        counted_from = began if self._order.once else began + self._order.warm_up
        until = float("inf") if self._order.once else counted_from + self._order.seconds
        # Each caller chooses for itself, or all take from one list.
        shared = iter(random.sample(self._credentials, len(self._credentials))) if self._order.once else None
        async with asyncio.TaskGroup() as group:
            for _ in range(self._order.callers):
                group.create_task(self._caller(shared or self._at_random(), counted_from, until))
        lasted = time.perf_counter() - began if self._order.once else self._order.seconds
        ordered = sorted(self._latencies) or [float("nan")]
        return Outcome(
            opens=self._opens,
            per_second=len(self._latencies) / lasted,
            p50_ms=quantile(ordered, 0.5) * 1000,
            p99_ms=quantile(ordered, 0.99) * 1000,
            failures=self._failures,
            first_failure=self._first_failure,
        )

    def _at_random(self) -> Iterator[Loaded]:
        choose, credentials, count = random.Random().random, self._credentials, len(self._credentials)  # noqa: S311 - which to open next is no secret
        while True:
            yield credentials[int(choose() * count)]

    async def _caller(self, choices: Iterator[Loaded], counted_from: float, until: float) -> None:
        clock, opener, latencies = time.perf_counter, self._opener, self._latencies
        for credential in choices:
            started = clock()
            if started >= until:
                return
            try:
                await opener(credential)
            except Exception as error:  # noqa: BLE001 - counted, and the first is told
                self._failed(error)
                continue
            ended = clock()
            self._opens += 1
            if counted_from <= ended < until:
                latencies.append(ended - started)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._first_failure is None:
            # Not the message: a driver's may quote what was sent.
            self._first_failure = type(error).__qualname__


def _contender(terms: Terms) -> AbstractAsyncContextManager[Opener]:
    # Imported when chosen: what a process holds in memory is measured too.
    if terms.contender == USUAL:
        from benchmarks import usual

        return usual.opener(terms)
    if terms.contender == ONE_BY_ONE:
        from benchmarks import one_by_one

        return one_by_one.opener(terms)
    from benchmarks import ours

    return ours.opener(terms)


async def _serve(terms: Terms, credentials: list[Loaded], orders: IO[str], answers: IO[str]) -> None:
    async with AsyncExitStack() as stack:
        opener = await stack.enter_async_context(_contender(terms))
        _answer(answers, {"pid": os.getpid(), "zeroing": zeroing_line()})
        while line := await asyncio.to_thread(orders.readline):
            order = Order(**json.loads(line))
            if order.fresh:
                await stack.aclose()
                opener = await stack.enter_async_context(_contender(terms))
            work = _Round(opener, credentials, order)
            outcome = await (_profiled(work) if order.profile else work.run())
            _answer(answers, asdict(outcome))


async def _profiled(work: _Round) -> Outcome:
    profiler = cProfile.Profile()
    profiler.enable()
    outcome = await work.run()
    profiler.disable()
    text = io.StringIO()
    statistics = pstats.Stats(profiler, stream=text)
    for order in ("tottime", "cumulative"):
        statistics.sort_stats(order).print_stats(_PROFILE_LINES)
    outcome.profile = text.getvalue()
    return outcome


def _answer(answers: IO[str], value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def main() -> None:
    """Serves orders until standard input ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        terms = Terms(**json.loads(sys.stdin.readline()))
        listed = json.loads(Path(terms.credentials_file).read_text(encoding="ascii"))
        credentials = [Loaded(UUID(credential), user_id) for credential, user_id in listed]
        asyncio.run(_serve(terms, credentials, sys.stdin, answers))


if __name__ == "__main__":
    main()
