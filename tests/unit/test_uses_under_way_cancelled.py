"""Uses that are cut off while they last: whoever cuts, whoever cancels, whatever the block makes of it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from service.errors import Suspended
from service.modules.control_ports import Suspendable
from service.modules.uses_under_way import UsesUnderWay
from tests.unit.under_way import Postgres, access, alices, begun, watching

TICKS = 9
"""Turns of the loop at which something may happen; a block lasts fewer, so that some of it happens after its end."""


async def _plain() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _cleans_up() -> None:
    try:
        await _plain()
    finally:
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def _swallows() -> None:
    for _ in range(6):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


async def _converts() -> None:
    try:
        await _plain()
    except asyncio.CancelledError:
        raise KeyError("the block's own") from None


async def _fails() -> None:
    await _plain()
    raise KeyError("the block's own")


async def _times_out() -> None:
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            await asyncio.sleep(0)
            timeout.reschedule(loop.time())
            await _plain()


async def _leaves_at_once() -> None:
    pass


BLOCKS = [_plain, _cleans_up, _swallows, _converts, _fails, _times_out, _leaves_at_once]


class Run:
    """One block, with a cut at one turn of the loop and somebody else's cancellation at another."""

    def __init__(self, block: Callable[[], Awaitable[None]], cut_at: int | None, cancel_at: int | None) -> None:
        self._block = block
        self._at = {"cut": cut_at, "cancel": cancel_at}
        self.happened: list[str] = []
        self.raised: BaseException | None = None
        self.left_over = 0
        self.stray = False

    async def whole(self) -> "Run":
        uses = watching(Postgres(), recheck=3600)
        task = asyncio.create_task(self._watched(uses))
        for tick in range(TICKS):
            await asyncio.sleep(0)
            for name, at in self._at.items():
                if at != tick or task.done():
                    continue
                if uses.count:
                    self.happened.append(name)
                if name == "cut":
                    uses.cut(Suspendable(user_id="alice"))
                elif uses.count:
                    task.cancel()
        await task
        assert uses.count == 0
        await uses.aclose()
        return self

    async def _watched(self, uses: UsesUnderWay) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with uses.watched(access(), alices()):
                await self._block()
        except BaseException as error:  # noqa: BLE001 - it is what is looked at
            self.raised = error
        self.left_over = task.cancelling()
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.stray = True


WHEN = [None, *range(TICKS)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__.strip("_"))
async def test_a_cut_is_told_whatever_the_block_does_and_a_cancellation_is_never_taken_for_one(
    block: Callable[[], Awaitable[None]],
) -> None:
    alone = await Run(block, None, None).whole()
    outcomes = set()
    for cut_at, cancel_at in itertools.product(WHEN, WHEN):
        run = await Run(block, cut_at, cancel_at).whole()
        told = (block.__name__, cut_at, cancel_at, run.happened, run.raised)
        cancelled, cut = "cancel" in run.happened, "cut" in run.happened
        assert run.left_over == int(cancelled), told  # ours is over with the block, theirs is theirs
        assert not run.stray, told
        if cut and not cancelled:
            assert isinstance(run.raised, Suspended), told
        elif cancelled and not cut:
            swallowed = block in (_swallows, _converts)
            assert swallowed or isinstance(run.raised, asyncio.CancelledError), told
        elif cancelled:
            assert isinstance(run.raised, asyncio.CancelledError | KeyError), told
            assert block is _converts or isinstance(run.raised, asyncio.CancelledError), told
        else:
            assert type(run.raised) is type(alone.raised), told
        outcomes.add(tuple(sorted(run.happened)))
    if block is not _leaves_at_once:
        assert outcomes == {(), ("cancel",), ("cut",), ("cancel", "cut")}


async def test_a_block_that_cuts_itself_leaves_no_cancellation_behind() -> None:
    """As it ends, so that its cancellation has no place in it to come to; and more than once."""
    uses = watching(Postgres(), recheck=3600)
    task = asyncio.current_task()
    assert task is not None

    async def block() -> None:
        async with uses.watched(access(), alices()):
            for _ in range(3):
                uses.cut(Suspendable(user_id="alice"))

    with pytest.raises(Suspended):
        await block()
    assert task.cancelling() == 0
    await asyncio.sleep(0)
    await uses.aclose()


async def test_a_task_that_was_being_cancelled_before_is_so_afterwards() -> None:
    uses = watching(Postgres(), recheck=3600)
    counts = []

    async def cleaning_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(Suspended):
                async with uses.watched(access(), alices()):
                    await asyncio.Event().wait()
            counts.append(task.cancelling())
            raise

    task = asyncio.create_task(cleaning_up())
    await asyncio.sleep(0)
    task.cancel()
    while not uses.count:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    uses.cut(Suspendable(user_id="alice"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counts == [1]
    await uses.aclose()


async def test_a_cut_keeps_no_frame_of_the_block_which_may_hold_a_secret() -> None:
    uses = watching(Postgres(), recheck=3600)

    async def block() -> None:
        async with uses.watched(access(), alices()):
            secret = object()
            await asyncio.Event().wait()
            del secret

    (task,) = await begun(uses, block())
    uses.cut(Suspendable(user_id="alice"))
    with pytest.raises(Suspended) as cut:
        await task
    assert cut.value.__cause__ is None
    assert cut.value.__context__ is None or cut.value.__context__.__traceback__ is None
    await uses.aclose()
