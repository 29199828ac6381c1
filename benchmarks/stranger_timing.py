"""`python -m benchmarks.stranger_timing`, which `make timing` runs: can a stranger tell by the time of a 404?

Each route is asked for another user's credential and for one that does not exist, in random order, one at a time, of
the application in this process: no network and no other caller hides a difference, so this is more than a stranger
sees. By the rank-sum test of Mann and Whitney (normal approximation, with ties); beside it the same test between halves
of the absent ones, which nothing can tell apart, says how much chance and the machine alone make of it.
"""

import argparse
import asyncio
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import httpx

from service.app import create_app
from service.localstack import identity_tokens
from service.localstack.stack import LocalStack, local_stack

KEYS = {"api_key": "PKTIMING", "secret_key": "timing"}
ROUTES = {
    "GET": ("GET", "", None),
    "GET events": ("GET", "/events", None),
    "PATCH new keys": ("PATCH", "", KEYS),
    "PATCH is_active": ("PATCH", "", {"is_active": False}),
    "DELETE": ("DELETE", "", None),
    "POST rollback": ("POST", "/rollback", None),
    "POST validate": ("POST", "/validate", None),
    "POST handoff": ("POST", "/handoff", None),
    "GET proxy": ("GET", "/proxy/v2/account", None),
}


_LEVEL = 0.05
"""Of all routes together: how often chance alone may look like a difference (Bonferroni)."""


def rank_sum(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The probability that one of the first took longer than one of the second (0.5: alike), and the two-sided p.

    H. B. Mann, D. R. Whitney, 1947; the variance corrected for ties.
    """
    joined = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks, ties, at = 0.0, 0.0, 0
    while at < len(joined):
        end = at
        while end < len(joined) and joined[end][0] == joined[at][0]:
            end += 1
        ranks += sum((at + end + 1) / 2 for each in joined[at:end] if each[1] == 0)
        ties += (end - at) ** 3 - (end - at)
        at = end
    m, n = len(first), len(second)
    u = ranks - m * (m + 1) / 2
    variance = m * n / 12 * (m + n + 1 - ties / ((m + n) * (m + n - 1)))
    z = (u - m * n / 2) / math.sqrt(variance) if variance else 0.0
    return u / (m * n), math.erfc(abs(z) / math.sqrt(2))


async def _measured(stack: LocalStack, samples: int) -> list[tuple[str, float, float, float, float, float]]:
    with stack.vault.admin() as admin:
        owner = {"Authorization": f"Bearer {identity_tokens.mint(admin, 'user', 'timing-owner')}"}
        robot = {"Authorization": f"Bearer {identity_tokens.mint(admin, 'orchestrator', 'timing-robot')}"}
    stranger = {**robot, "X-User-Id": "timing-stranger"}
    kinds = ("handoffs", "validations", "proxy_calls")
    unlimited: dict[str, int] = {f"{kind}_per_minute{whose}": 0 for kind in kinds for whose in ("", "_caller")}
    settings = stack.settings(reconcile_interval=86_400, **unlimited)
    app = create_app(settings)
    rows: list[tuple[str, float, float, float, float, float]] = []
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
            body = {"account_id": str(uuid4()), "credential_type": "alpaca", **KEYS}
            theirs = [(await client.post("/v1/credentials", json=body, headers=owner)).json()["id"] for _ in range(50)]
            for name, (method, below, sent) in ROUTES.items():
                times: dict[str, list[float]] = {"others": [], "absent": []}
                order = ["others", "absent"] * (samples + 20)
                random.shuffle(order)
                for number, which in enumerate(order):
                    asked = random.choice(theirs) if which == "others" else str(uuid4())  # noqa: S311 - no secret
                    began = time.perf_counter_ns()
                    answer = await client.request(
                        method, f"/v1/credentials/{asked}{below}", json=sent, headers=stranger
                    )
                    took = time.perf_counter_ns() - began
                    if answer.status_code != 404:
                        raise SystemExit(f"{name}: answered {answer.status_code}: {answer.text}")
                    if number >= 40:  # the first ones open connections
                        times[which].append(took / 1000)
                halves = list(times["absent"])
                random.shuffle(halves)
                chance = rank_sum(halves[::2], halves[1::2])[1]
                others, absent = statistics.median(times["others"]), statistics.median(times["absent"])
                rows.append((name, others, absent, *rank_sum(times["others"], times["absent"]), chance))
    return rows


def main() -> None:
    """Measures, and prints the table. Exit status 1: the time tells one from the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stranger_timing")
    parser.add_argument("--samples", type=int, default=1000, help="of each, for each route")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        local_stack(Path(folder), dict(os.environ), lambda _line: None) as stack,
    ):
        rows = asyncio.run(_measured(stack, given.samples))
    print(f"{given.samples} requests of each; AUC: how often another's took longer than an absent one's (0.5: alike)")
    print(f"{'route':16} {'others, us':>11} {'absent, us':>11} {'apart':>8} {'AUC':>6} {'p':>7} {'p of halves':>12}")
    for name, others, absent, auc, p, chance in rows:
        print(f"{name:16} {others:11.0f} {absent:11.0f} {others - absent:+8.0f} {auc:6.3f} {p:7.3f} {chance:12.3f}")
    smallest, level = min(row[4] for row in rows), _LEVEL / len(rows)
    print("`p of halves`: the same test of the absent ones alone, one half beside the other, so what chance does")
    print(f"{len(rows)} routes: the smallest p is {smallest:.3f}; below {level:.4f} ({_LEVEL}/{len(rows)}) would tell")
    raise SystemExit(int(smallest < level))


if __name__ == "__main__":
    main()
