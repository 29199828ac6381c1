"""Having a credential handed off leaves nothing of it in the orchestrator's process, which had it but for a block.

The service is in this test's process, and not looked into: `test_handoff.py` is about that.
"""

import asyncio
import secrets
from collections.abc import Sequence

import pytest

from service.composition import Runtime
from tests.support import Stack
from tests.written import Somebody
from tests.zeroing.conftest import Ledger, Way
from tests.zeroing.processes import Found, Keys, environment_without, pair, scan, target

PROCESSES = 10
"""Over each of http and TLS."""

BATCH = 8
TRIES = 5
CLIENT = "tests.zeroing.client_target"

_at_once = asyncio.Semaphore(2)


async def told_of(
    server: str, stack: Stack, runtime: Runtime, pairs: Sequence[Keys], without: Sequence[str] = ()
) -> dict[str, object]:
    """What a process is told that has these pairs, newly stored, handed off."""
    somebody = Somebody()
    ids = [str((await somebody.store(runtime, each)).id) for each in pairs]
    token = stack.mint("orchestrator", "bot")
    return {"url": server, "token": token, "ids": ids, "user_id": somebody.user_id, "without": list(without)}


async def test_after_the_block_nothing_is_left_in_fresh_processes(
    way: Way, ledger: Ledger, server: str, stack: Stack, runtime: Runtime
) -> None:
    what = f"hand-off over {way.name}"

    async def look(number: int) -> None:
        keys = pair(number)
        async with (
            _at_once,
            target(way.environment, "opened", await told_of(server, stack, runtime, [keys]), module=CLIENT) as process,
        ):
            await process.reached("inside")
            inside = ledger.note("inside the client's block", what, process.pid, keys, await scan(process.pid, keys))
            assert inside.windows > 0, "the scanner does not see what is there"
            process.go_on()
            await process.reached("after")
            after = ledger.note("after the client's block", what, process.pid, keys, await scan(process.pid, keys))
            assert after.windows == 0, f"lengths {len(keys[0])} and {len(keys[1])}: {after}"

    numbers = range(PROCESSES) if way.name == "http" else range(PROCESSES, 2 * PROCESSES)
    await asyncio.gather(*map(look, numbers))


async def test_after_a_block_that_raised_nothing_is_left(
    way: Way, ledger: Ledger, server: str, stack: Stack, runtime: Runtime
) -> None:
    keys = pair(secrets.randbelow(18))
    told = await told_of(server, stack, runtime, [keys])
    async with target(way.environment, "broken", told, module=CLIENT) as process:
        await process.reached("inside")
        process.go_on()
        await process.reached("after")
        found = await scan(process.pid, keys)
    ledger.note("after the client's block", f"hand-off over {way.name}, the block raises", process.pid, keys, found)
    assert found.windows == 0, str(found)


@pytest.mark.parametrize("passed", [0, 300], ids=["before-the-answer", "amid-the-answer"])
async def test_after_an_unwrapping_was_given_up_nothing_is_left(
    way: Way, passed: int, ledger: Ledger, server: str, stack: Stack, runtime: Runtime
) -> None:
    keys = pair(secrets.randbelow(18))
    told = await told_of(server, stack, runtime, [keys])
    async with target(way.environment, "cancelled", told, module=CLIENT) as process:
        async with way.vault.holding("/sys/wrapping/unwrap", passed=passed):
            await process.reached("under way")
            await way.vault.held()
            process.go_on()
            await process.reached("after")
            found = await scan(process.pid, keys)
        process.go_on()
        await process.reached("at rest")
        later = await scan(process.pid, keys)
    what = f"hand-off over {way.name}, given up"
    for each in (found, later):
        ledger.note("after the client's block", what, process.pid, keys, each)
        assert each.windows == 0, str(each)


LEAVES = (
    ("http", ("wiping revealed strings",), ()),
    ("http", ("wiping plaintext",), ()),
    ("http", ("wiping the wire's buffer",), ()),
    ("TLS", ("SSL_OP_CLEANSE_PLAINTEXT",), ("LD_PRELOAD",)),
)


@pytest.mark.parametrize(("over", "without", "variables"), LEAVES, ids=str)
async def test_without_it_something_is_left_in_the_clients_process(
    over: str,
    without: tuple[str, ...],
    variables: tuple[str, ...],
    ways: dict[str, Way],
    ledger: Ledger,
    server: str,
    stack: Stack,
    runtime: Runtime,
) -> None:
    way, what = ways[over], f"{', '.join((*variables, *without))}: hand-off over {over}"

    async def tried() -> Found:
        pairs = [pair(secrets.randbelow(18)) for _ in range(BATCH)]
        keys = [key for each in pairs for key in each]
        told = await told_of(server, stack, runtime, pairs, without)
        environment = environment_without(way.environment, *variables)
        async with target(environment, "together", told, module=CLIENT, by_exec=False) as process:
            await process.reached("inside")
            process.go_on()
            await process.reached("after")
            return ledger.note("without, in the client", what, process.pid, keys, await scan(process.pid, keys))

    for _ in range(TRIES):
        if (await tried()).windows:
            return
    pytest.fail("nothing was found: does it still protect anything?")
