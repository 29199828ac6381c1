"""One fault under load, from its beginning until all is well again and has been looked at."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from uuid import UUID

import asyncpg

from tests.faults.callers import Call, Load, Permits
from tests.faults.faults import Fault
from tests.written import Connection

RECOVERY_BOUND = 120.0
"""How long a phase waits for all to be well again, before it is called lost."""

LATE = 5.0
"""Seconds after a fault's end from which on everything should work."""

_QUIET = 0.5
"""Seconds of load without a failure after which all is well."""


@dataclass
class Outcome:
    """What one kind of fault came to."""

    fault: str
    times: int = 0
    kills: int = 0
    ok: int = 0
    refused: int = 0
    broken: int = 0
    told: Counter[str] = field(default_factory=Counter)
    """What callers were refused with."""
    late: list[str] = field(default_factory=list)
    """Calls that began when the fault had been over for some seconds, and failed all the same."""
    slowest: float = 0.0
    """The longest call, in seconds."""
    again_within: list[float] = field(default_factory=list)
    """Seconds from each fault's end to the first answer, at each replica, after which none failed any more."""
    credentials: int = 0
    events: int = 0
    """Acknowledged ones that were looked for, and found."""
    reconciled: int = 0
    """What reconciliation removed; it found nothing when it was run again."""
    violations: list[str] = field(default_factory=list)

    def json(self) -> dict[str, object]:
        """For a file."""
        return {**asdict(self), "told": dict(self.told), "again_within": [round(each, 2) for each in self.again_within]}


async def suffer(load: Load, fault: Fault, outcome: Outcome) -> None:
    """Once: the load goes on, the fault comes and goes, and then all is well again within `RECOVERY_BOUND`."""
    began = time.monotonic()
    load.resume()
    if not outcome.times:  # a rewrap goes through the fault
        async with load.client() as client:
            await load.rotate_and_rewrap(client, load.world.replicas[0].url)
    load.permits = fault.permits
    async with fault.inflict(load.world):
        await asyncio.sleep(fault.lasts)
    ended = time.monotonic()
    outcome.times += 1
    outcome.kills += fault.kills
    await _well_again(load)
    outcome.again_within.append(_again(load.since(ended)) - ended)
    outcome.late += [
        f"{call.kind} at {call.where} after {call.began - ended:.1f} s: {call.told}"
        for call in load.since(ended + LATE)
        if call.outcome != "ok"
    ]
    load.permits = Permits()
    calls = load.since(began)
    outcome.ok += sum(call.outcome == "ok" for call in calls)
    outcome.refused += sum(call.outcome == "refused" for call in calls)
    outcome.broken += sum(call.outcome == "broken" for call in calls)
    outcome.told.update(call.told for call in calls if call.outcome == "refused")
    outcome.slowest = max(outcome.slowest, *(call.ended - call.began for call in calls))


async def _well_again(load: Load) -> None:
    """Waits until everything works everywhere, and the load has met no failure for a while."""
    async with asyncio.timeout(RECOVERY_BOUND), load.client() as client:
        for replica in load.world.replicas:
            while not await load.works(client, replica.url):  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.02)
        while [call for call in load.since(time.monotonic() - _QUIET) if call.outcome != "ok"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _again(calls: Sequence[Call]) -> float:
    """When each replica, and the library, had answered the first call of those after which none failed."""
    moments = []
    for where in {call.where for call in calls}:
        here = [call for call in calls if call.where == where]
        last = max((call.began for call in here if call.outcome != "ok"), default=0.0)
        moments.append(min(call.ended for call in here if call.began > last))
    return max(moments)


async def examine(load: Load, outcome: Outcome) -> None:
    """Stops the load, and looks at every credential, every acknowledged event, and at what reconciliation leaves."""
    await load.pause()
    load.permits = Permits()
    conn = await asyncpg.connect(load.world.stack.owner_url)
    try:
        await _settle(load)
        outcome.credentials = await _open_all(load, conn)
        outcome.events += await _find_events(load, conn)
        outcome.reconciled += await _reconcile(load, conn)
    finally:
        await conn.close()
    outcome.violations += load.ledger.violations
    load.ledger.violations.clear()
    load.calls.clear()


async def _settle(load: Load) -> None:
    """Sends again what nobody knows the outcome of: storing, deleting."""
    url = load.world.replicas[0].url
    async with load.client() as client:
        for held in list(load.ledger.held):
            if not held.id:
                await load.store(client, url, held.user_id)
        for held in load.ledger.held:
            if held.gone == "maybe":
                await load.delete(client, url, held)


async def _open_all(load: Load, conn: Connection) -> int:
    """Each credential that was acknowledged opens, at both replicas and by the library, as its own; deleted ones don't.
    Each account has one row: a store that was sent again has stored once."""
    there = 0
    async with load.client() as client:
        for held in load.ledger.held:
            rows = await conn.fetchval("SELECT count(*) FROM credentials WHERE account_id = $1", held.account_id)
            if rows != (held.gone == "no"):
                load.ledger.violations.append(f"{rows} rows of a credential that is gone: {held.gone}")
            if held.gone != "no" or not held.id:
                continue
            there += 1
            for replica in load.world.replicas:
                await _at_last(load, partial(load.open, client, replica.url, held))
            await _at_last(load, partial(load.open_embedded, held))
    # Deleted ones are not looked at again.
    load.ledger.held = [held for held in load.ledger.held if held.gone != "yes"]
    return there


async def _at_last(load: Load, attempt: Callable[[], Awaitable[bool]]) -> None:
    """A machine that stands still for seconds makes time-outs of its own."""
    until = time.monotonic() + RECOVERY_BOUND
    while not await attempt():
        if time.monotonic() > until:
            load.ledger.violations.append("an acknowledged credential does not open")
            return
        await asyncio.sleep(0.1)


async def _find_events(load: Load, conn: Connection) -> int:
    wanted = load.ledger.acknowledged
    found = await conn.fetch(
        "SELECT DISTINCT request_id, action FROM credential_events"
        " WHERE request_id = ANY ($1::text[]) AND outcome IN ('granted', 'done')",
        list(wanted),
    )
    lacking = set(wanted.items()) - {(row["request_id"], row["action"]) for row in found}
    load.ledger.violations += [f"an acknowledged {action} has no event" for _, action in sorted(lacking)]
    load.ledger.acknowledged = {}
    return len(wanted)


async def _reconcile(load: Load, conn: Connection) -> int:
    """As if every intent's time had come: what it removes; run again, it has to find nothing."""
    # A rewrap under way writes intents, and pins anew what the scan looks at. It has to end by itself.
    async with asyncio.timeout(RECOVERY_BOUND):
        while await conn.fetchval("SELECT count(*) FROM jobs WHERE ended_at IS NULL"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await conn.execute("UPDATE write_intents SET due_at = now() - interval '1 second'")
    removed, until = 0, time.monotonic() + RECOVERY_BOUND
    # The replicas reconcile as well, and may be about it: what they hold is passed by.
    while (report := await load.runtime.reconciler.run(apply=True)).due:
        removed += report.removed
        if time.monotonic() > until:
            load.ledger.violations.append(f"reconciliation leaves {report.due}, and failed for {report.failed}")
            break
    left = await conn.fetchval("SELECT count(*) FROM write_intents")
    if left:
        load.ledger.violations.append(f"{left} intents are left")
    scanned = await load.runtime.reconciler.scan(apply=False)
    ids = {UUID(held.id) for held in load.ledger.held if held.id}
    if scanned.broken or scanned.skewed or scanned.unaccounted or scanned.credentials != len(ids):
        load.ledger.violations.append(
            f"the scan finds {len(scanned.broken)} broken, {scanned.skewed}, {scanned.unaccounted} unaccounted,"
            f" {scanned.credentials} credentials of {len(ids)}"
        )
    return removed
