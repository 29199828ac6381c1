"""Keys are rotated, credentials rewrapped and versions retired, one after the other, while users go about their work.

A minute of it, with 32 callers, on a stack of this module's own.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from service.composition import Runtime
from service.modules.key_records import JobReason, JobState
from tests.conftest import start_stack
from tests.rotating import Kept, ask, assert_reconciled, newest_version, over, rotator_of, some_credentials
from tests.support import Stack
from tests.written import Connection, Pair, Somebody, pair_of_keys

_SECONDS = 60.0
_READERS = 16
_WRITERS = 16
_PATIENCE = {"vault_timeout": 30, "database_timeout": 30}  # the claim is not about time


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("load")) as started:
        yield started


@dataclass
class Writer:
    """A user who stores, opens, updates and rolls back, and knows what each credential was last acknowledged to be."""

    somebody: Somebody = field(default_factory=Somebody)
    present: dict[UUID, Pair] = field(default_factory=dict)
    previous: dict[UUID, Pair] = field(default_factory=dict)
    did: Counter[str] = field(default_factory=Counter)

    async def work(self, runtime: Runtime, until: float) -> None:
        dice = random.Random()  # noqa: S311 - not a secret
        while asyncio.get_running_loop().time() < until:
            at = dice.choice(list(self.present)) if self.present else None
            chosen = dice.choices(["open", "update", "rollback", "store"], [10, 6, 2, 1])[0]
            await self._do(runtime, at, "store" if at is None else chosen)

    async def _do(self, runtime: Runtime, at: UUID | None, what: str) -> None:
        keys = pair_of_keys()
        if at is None or what == "store":
            self.present[(await self.somebody.store(runtime, keys)).id] = keys
        elif what == "open":
            assert await self.somebody.opens(runtime, at) == self.present[at]
        elif what == "update":
            await self.somebody.update(runtime, at, *keys)
            self.previous[at], self.present[at] = self.present[at], keys
        elif at in self.previous:
            await runtime.writer.rollback(self.somebody.access, at, if_match=None)
            self.previous[at], self.present[at] = self.present[at], self.previous[at]
        self.did[what] += 1
        await asyncio.sleep(0.3)  # what is left of each change has to be cleaned up afterwards


async def read(runtime: Runtime, kept: list[Kept], until: float, did: Counter[str]) -> None:
    """Opens what nobody changes."""
    dice = random.Random()  # noqa: S311 - not a secret
    while asyncio.get_running_loop().time() < until:
        each = dice.choice(kept)
        assert await each.somebody.opens(runtime, each.id) == each.keys
        did["open"] += 1


async def rotate_and_retire(stack: Stack, conn: Connection, until: float) -> int:
    """Rotates, rewraps and retires for as long; returns how many versions have been retired."""
    retired = 0
    while asyncio.get_running_loop().time() < until:
        assert (await over(conn, await ask(conn, "rotate"))).state is JobState.DONE
        version = newest_version(stack)
        while True:
            rewrapped = await over(conn, await ask(conn, "rewrap"), within=120)
            assert (rewrapped.state, rewrapped.failed) == (JobState.DONE, 0)
            ended = await over(conn, await ask(conn, "retire", below=version))
            if ended.reason != JobReason.STILL_NEEDED:
                break  # else something sealed before the rotation has been committed after the rewrap
        assert ended.state is JobState.DONE
        retired += 1
        await asyncio.sleep(5)  # on a quick machine there would be tens of thousands of versions to clean up after
    return retired


@pytest.mark.timeout(400)
async def test_under_load_no_open_fails_no_update_is_lost_and_nothing_is_left_over(
    stack: Stack, owner_conn: Connection
) -> None:
    settings = stack.settings(job_poll_seconds=0.1, **_PATIENCE)
    writers, did = [Writer() for _ in range(_WRITERS)], Counter[str]()
    async with Runtime.open(settings) as runtime, rotator_of(settings) as rotator:
        kept = await some_credentials(runtime, 60, updated=10)
        until = asyncio.get_running_loop().time() + _SECONDS
        running = asyncio.create_task(rotator.run())
        async with asyncio.TaskGroup() as callers:
            rotating = callers.create_task(rotate_and_retire(stack, owner_conn, until))
            for writer in writers:
                callers.create_task(writer.work(runtime, until))
            for _ in range(_READERS):
                callers.create_task(read(runtime, kept, until, did))
        rotator.stop()
        await running
        for writer in writers:
            did += writer.did
        assert rotating.result() >= 2
        assert all(did[what] for what in ("open", "update", "rollback", "store"))
        await assert_last_acknowledged(runtime, writers, kept)
        await owner_conn.execute("UPDATE write_intents SET due_at = now() - interval '1 second'")
        assert (await runtime.reconciler.run(apply=True)).failed == 0
        await assert_reconciled(stack, runtime, owner_conn)
        await assert_last_acknowledged(runtime, writers, kept)


async def assert_last_acknowledged(runtime: Runtime, writers: list[Writer], kept: list[Kept]) -> None:
    """Each credential opens as what it was last acknowledged to be."""
    for writer in writers:
        for at, keys in writer.present.items():
            assert await writer.somebody.opens(runtime, at) == keys
    for each in kept:
        assert await each.somebody.opens(runtime, each.id) == each.keys
