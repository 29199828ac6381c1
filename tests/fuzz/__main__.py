"""`make fuzz`: all targets in turn, for so many seconds. Prints the seed, and for each target what was tried."""

import argparse
import secrets
import sys
import time
import traceback

from tests.fuzz.exploring import explore
from tests.fuzz.targets import TARGETS

ROUND = 500
"""Examples of one target before the next one's turn."""


def main() -> int:
    """0 where all held; 1 with what didn't, and how to see it again."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--only", choices=sorted(TARGETS))
    given = parser.parse_args()
    names = [given.only] if given.only else list(TARGETS)
    print(f"seed {given.seed}, {given.seconds:.0f} s, {len(names)} targets", flush=True)
    tried, spent = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    failed: list[str] = []
    number, until = given.seed, time.monotonic() + given.seconds
    while time.monotonic() < until and not failed:
        for name in names:
            began = time.monotonic()
            try:
                tried[name] += explore(TARGETS[name], ROUND, number)
            except Exception:  # noqa: BLE001 - whatever it is, it is a finding
                traceback.print_exc()
                failed.append(name)
                print(f"FAILED: {name}; again: python -m tests.fuzz --seed {number} --only '{name}'", flush=True)
            spent[name] += time.monotonic() - began
        number += 1
    print(f"{'target':20} {'examples':>10} {'seconds':>8}")
    for name in names:
        print(f"{name:20} {tried[name]:10,} {spent[name]:8.1f}{'  FAILED' if name in failed else ''}")
    print(f"{sum(tried.values()):,} examples, {len(failed)} of {len(names)} targets failed")
    return 1 if failed else 0


sys.exit(main())
