"""`make faults`: the long schedule. Prints a table, writes JSON; exits with 1 where something is not as it has to be.

The faults come in an order that is drawn anew each time, each kind again and again; kills come in rows, with a look at
everything after each row.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from service.composition import Runtime
from tests.conftest import pytest_configure, start_stack
from tests.faults.callers import Load
from tests.faults.faults import FAULTS, Fault
from tests.faults.phases import Outcome, examine, suffer
from tests.faults.world import world
from tests.own_vault import vault_source

AGAIN_WITHIN = 5.0
_ROW = 15
"""Kills between two looks at everything."""


def main(given: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make faults ARGS=…", description="Faults under load, for 20 to 45 minutes.")
    parser.add_argument("--json", type=Path, help="where the counts go")
    parser.add_argument(
        "--only", default="", help="of the faults, those whose name has one of these in it, with commas"
    )
    parser.add_argument("--times", type=float, default=1.0, help="a factor on how often each comes")
    arguments = parser.parse_args(given)
    faults = [fault for fault in FAULTS if any(each in fault.name for each in arguments.only.split(","))]
    pytest_configure()
    with TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        outcomes, seconds = asyncio.run(_run(Path(folder), faults, arguments.times))
    _print(outcomes, seconds)
    if arguments.json:
        told = {"seconds": round(seconds), "faults": [each.json() for each in outcomes]}
        arguments.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    late = [each for each in outcomes if max(each.again_within, default=0) > AGAIN_WITHIN]
    return 1 if late or any(each.violations for each in outcomes) else 0


def _schedule(faults: Sequence[Fault], factor: float) -> list[tuple[Fault, int]]:
    """The faults in some order, each with how often it comes in a row."""
    rows: list[tuple[Fault, int]] = []
    for fault in faults:
        left = max(1, round(fault.long * factor))
        while left:
            row = min(left, _ROW if fault.kills else 1)
            rows.append((fault, row))
            left -= row
    random.shuffle(rows)
    return rows


async def _run(folder: Path, faults: Sequence[Fault], factor: float) -> tuple[list[Outcome], float]:
    outcomes = {fault.name: Outcome(fault.name) for fault in faults}
    with start_stack(folder / "stack") as stack:
        async with world(stack, vault_source("local"), folder) as made, Runtime.open(stack.settings()) as runtime:
            load = Load(made, runtime)
            await load.prepare()
            running = asyncio.create_task(load.run(), name="load")
            began = time.monotonic()
            for fault, row in _schedule(faults, factor):
                outcome = outcomes[fault.name]
                await _row_of(load, fault, row, outcome)
                if running.done():
                    running.result()
                again = f"again within {outcome.again_within[-1]:.1f} s" if outcome.again_within else "never again"
                sys.stderr.write(
                    f"{time.monotonic() - began:6.0f} s  {fault.name}, {outcome.times} so far; {again}"
                    f"{''.join(f'; {each}' for each in outcome.violations[:3])}\n"
                )
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    return list(outcomes.values()), time.monotonic() - began


async def _row_of(load: Load, fault: Fault, row: int, outcome: Outcome) -> None:
    try:
        for _ in range(row):
            await suffer(load, fault, outcome)
    except TimeoutError:
        outcome.violations.append("all was not well again in time")
    await examine(load, outcome)


def _print(outcomes: Sequence[Outcome], seconds: float) -> None:
    columns = "{:29}{:>6}{:>6}{:>9}{:>9}{:>8}{:>9}{:>9}{:>9}{:>9}{:>8}"
    lines = [
        columns.format(
            *(
                "fault",
                "times",
                "kills",
                "calls ok",
                "refused",
                "broken",
                "slowest",
                "again",
                "(most)",
                "events",
                "wrong",
            )
        )
    ]
    for each in outcomes:
        again = sorted(each.again_within) or [0.0]
        lines.append(
            columns.format(
                *(each.fault, each.times, each.kills, each.ok, each.refused, each.broken, f"{each.slowest:.1f} s"),
                *(f"{again[len(again) // 2]:.2f} s", f"{again[-1]:.2f} s", each.events, len(each.violations)),
            )
        )
    total = Outcome("all")
    for each in outcomes:
        total.times, total.kills = total.times + each.times, total.kills + each.kills
        total.ok, total.refused, total.broken = (
            total.ok + each.ok,
            total.refused + each.refused,
            total.broken + each.broken,
        )
        total.events, total.reconciled = total.events + each.events, total.reconciled + each.reconciled
        total.violations += each.violations
    lines.append(
        columns.format(
            *("all", total.times, total.kills, total.ok, total.refused, total.broken),
            *("", "", "", total.events, len(total.violations)),
        )
    )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.write(f"{seconds:.0f} s; reconciliation removed {total.reconciled}, and found nothing when run again\n")
    for each in outcomes:
        for told, count in each.told.most_common():
            sys.stdout.write(f"  {each.fault}: refused with {told}: {count}\n")
        for late in each.late[:10]:
            sys.stdout.write(f"  late, {each.fault}: {late}\n")
        for violation in each.violations[:10]:
            sys.stdout.write(f"  WRONG, {each.fault}: {violation}\n")


if __name__ == "__main__":
    sys.exit(main())
