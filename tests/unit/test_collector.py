"""Garbage that refers to itself, and when it is gone."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from service.memory.collector import CollectAfterSecrets, Collector


@pytest.fixture(autouse=True)
def _automatic_collection_is_off() -> Iterator[None]:
    """So that nothing but the collector under test can have collected."""
    gc.disable()
    yield
    gc.enable()


class Knot:
    """An object that refers to itself, as a traceback and its frame do to each other."""

    def __init__(self) -> None:
        self.itself = self


def garbage() -> "weakref.ref[Knot]":
    return weakref.ref(Knot())


async def until_gone(knot: "weakref.ref[Knot]") -> None:
    async with asyncio.timeout(30):
        while knot() is not None:  # noqa: ASYNC110 - nobody tells when an object goes
            await asyncio.sleep(0.005)


async def test_garbage_is_gone_soon_after_it_was_asked_for() -> None:
    collector = Collector(60)
    async with collector.running():
        knot = garbage()
        await asyncio.sleep(0)
        assert knot() is not None
        collector.soon()
        await asyncio.sleep(0)
        assert knot() is None


async def test_old_garbage_is_gone_too() -> None:
    collector = Collector(60)
    async with collector.running():
        knots = [Knot()]
        collector.collect()
        collector.collect()  # it is in the oldest generation now
        knot = weakref.ref(knots.pop())
        collector.collect()
        assert knot() is None


async def test_a_flood_collects_few_times_and_still_collects_all() -> None:
    collector = Collector(60)
    async with collector.running():
        for _ in range(300):
            collector.soon()
            await asyncio.sleep(0)
        knot = garbage()
        collector.soon()
        await until_gone(knot)
        assert collector.runs < 100


async def test_the_timer_collects_what_nobody_asked_for() -> None:
    collector = Collector(0.01)
    async with collector.running():
        knot = garbage()
        await until_gone(knot)
    assert collector.runs >= 1


async def test_what_was_there_before_is_set_aside_until_the_end() -> None:
    collector = Collector(60)
    before = gc.get_freeze_count()
    async with collector.running():
        assert gc.get_freeze_count() > before + 1000
    assert gc.get_freeze_count() == 0


async def test_when_it_is_not_running_asking_does_nothing() -> None:
    collector = Collector(60)
    collector.soon()
    async with collector.running():
        pass
    runs = collector.runs
    collector.soon()
    await asyncio.sleep(0)
    assert collector.runs == runs


class Noted:
    """In the runtime's place and the collector's."""

    def __init__(self) -> None:
        self.asked = 0
        self.collector = self
        self.state = self
        self.runtime = self

    def soon(self) -> None:
        self.asked += 1


@pytest.mark.parametrize(
    ("method", "path", "asked"),
    [
        ("GET", "/v1/credentials", 0),
        ("HEAD", "/healthz", 0),
        ("GET", "/v1/credentials/1/proxy/v2/account", 1),
        ("HEAD", "/v1/credentials/1/proxy/v2/account", 1),
        *((method, "/v1/credentials", 1) for method in ("POST", "PATCH", "DELETE", "NONSENSE")),
    ],
)
@pytest.mark.parametrize("failure", [None, RuntimeError, asyncio.CancelledError])
async def test_it_is_asked_for_after_whatever_may_have_carried_a_secret_however_that_ends(
    method: str, path: str, asked: int, failure: type[BaseException] | None
) -> None:
    noted = Noted()

    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        assert noted.asked == 0
        if failure is not None:
            raise failure

    async def never(*_: Any) -> Any:
        pytest.fail("nothing is read or sent here")

    scope = {"type": "http", "method": method, "path": path, "app": noted}
    try:
        await CollectAfterSecrets(application)(scope, never, never)
    except (RuntimeError, asyncio.CancelledError) as error:
        assert type(error) is failure  # noqa: PT017 - and where there is none, nothing is raised
    assert noted.asked == asked


async def test_without_a_collector_nothing_is_asked() -> None:
    reached = []

    async def application(scope: Scope, _receive: Receive, _send: Send) -> None:
        reached.append(scope["method"])

    async def never(*_: Any) -> Any:
        pytest.fail("nothing is read or sent here")

    class Bare:
        state = object()

    await CollectAfterSecrets(application)({"type": "http", "method": "POST", "app": Bare()}, never, never)
    assert reached == ["POST"]
