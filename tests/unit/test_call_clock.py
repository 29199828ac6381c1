"""A passed-on call's clocks: how long it may stand still, how long last; its caller's hang-up."""

import asyncio

import pytest

from service.modules.call_clock import CallClock

LONG = 30.0


async def test_a_block_that_stands_still_is_ended() -> None:
    clock = CallClock(idle=0.02, whole=10 * LONG)
    with pytest.raises(TimeoutError):
        async with clock:
            await asyncio.sleep(LONG)
    assert not clock.hung_up


async def test_a_block_in_which_something_moves_goes_on() -> None:
    clock = CallClock(idle=0.2, whole=LONG)
    async with clock:
        for _ in range(30):
            clock.moved()
            await asyncio.sleep(0.02)


async def test_a_block_that_moves_is_ended_all_the_same_when_its_time_is_over() -> None:
    clock = CallClock(idle=0.05, whole=0.2)
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def moving() -> None:
        async with clock:
            while loop.time() - began < LONG:
                clock.moved()
                await asyncio.sleep(0.01)

    with pytest.raises(TimeoutError):
        await moving()
    assert loop.time() - began < LONG


async def test_hanging_up_ends_the_block_at_once() -> None:
    clock = CallClock(idle=LONG, whole=LONG)

    async def hung_up() -> None:
        async with clock:
            asyncio.get_running_loop().call_soon(clock.hang_up)
            await asyncio.sleep(LONG)

    with pytest.raises(TimeoutError):
        await hung_up()
    assert clock.hung_up


async def test_outside_of_the_block_hanging_up_is_nothing() -> None:
    clock = CallClock(idle=LONG, whole=LONG)
    clock.hang_up()
    async with clock:
        await asyncio.sleep(0)
    clock.hang_up()
    await asyncio.sleep(0)
    assert not clock.hung_up


async def test_the_blocks_own_error_passes() -> None:
    with pytest.raises(LookupError):
        async with CallClock(idle=LONG, whole=LONG):
            raise LookupError


async def test_somebody_elses_cancellation_stays_one() -> None:
    async def block() -> None:
        async with CallClock(idle=LONG, whole=LONG):
            await asyncio.sleep(LONG)

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
