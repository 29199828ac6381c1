"""Runs what the chosen ratios need: everything started once and idle, then round after round, each in its turn."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks import machine, replicas, rest, rewraps
from benchmarks.contender_process import BenchmarkFailed, ContenderProcess
from benchmarks.load_generator import LoadGenerator, Request
from benchmarks.loading import Loaded, connected
from benchmarks.ratios import (
    BARE,
    COMMIT,
    DENIED,
    DIRECT,
    HANDED_OFF,
    KV,
    LARGE,
    ONE_BY_ONE,
    OURS,
    PLAIN,
    PROXIED,
    RATIOS,
    RSS,
    RSS_SERIES,
    SERVICE,
    SMALL,
    VAULT,
    WORKER,
    Ratio,
    Round,
    Series,
)
from benchmarks.statements import USUAL as USUAL_SQL
from benchmarks.testbed import Progress, Testbed, testbed
from benchmarks.worker import Order
from service.localstack.postgres_server import blocking

_REQUESTS = 1000
"""Ciphertexts that the load generator goes through."""

_KINDS = {
    SMALL: "rows",
    LARGE: "rows",
    SERVICE: "rest",
    BARE: "rest",
    WORKER: "rewraps",
    KV: "rewraps",
    PROXIED: "proxy",
    DIRECT: "proxy",
    HANDED_OFF: "proxy",
    DENIED: "suspensions",
    COMMIT: "suspensions",
}
_REPLICAS = (PROXIED, DIRECT, HANDED_OFF, DENIED, COMMIT)

_ALSO = (
    # Beside what the ratios need, for whoever reads the table.
    Series(ONE_BY_ONE, 256),
    Series(ONE_BY_ONE, 1),
    Series(SMALL, 64),
    Series(LARGE, 64),
    Series(SMALL, 1, cold=True),
    Series(LARGE, 1, cold=True),
    Series(HANDED_OFF, 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    names: Sequence[str]
    rounds: int = 5
    seconds: float = 3.0
    warm_up: float = 1.0
    credentials: int = 10_000
    many: int = 1_000_000
    few: int = 1_000
    write_all: bool = False
    profile: bool = False
    also: bool = True

    @property
    def ratios(self) -> list[Ratio]:
        """Those that are wanted."""
        return [ratio for ratio in RATIOS if ratio.name in self.names]

    def groups(self) -> list[list[Series]]:
        """What is measured side by side: series of as many callers, and of the same kind, take turns."""
        wanted = [series for ratio in self.ratios for series in ratio.series]
        if RSS in self.names:
            wanted.append(RSS_SERIES)
        contenders = {series.contender for series in wanted}
        if self.also and len(self.ratios) == len(RATIOS):
            wanted += [series for series in _ALSO if series.contender in (*contenders, HANDED_OFF)]
        groups: dict[tuple[str, int, bool], list[Series]] = {}
        for series in dict.fromkeys(wanted):
            # Vault alone stands beside ours, whatever its own number of connections is.
            kind = _KINDS.get(series.contender, "")
            callers = {VAULT: 256, KV: 32}.get(series.contender, series.callers)
            groups.setdefault((kind, callers, series.cold), []).append(series)
        return list(groups.values())


@dataclass(slots=True)
class Results:
    """What was measured, on what."""

    plan: Plan
    machine: dict[str, Any]
    servers: dict[str, Any]
    generator: str | None = None
    rounds: dict[Series, list[Round]] = field(default_factory=dict)
    zeroing: dict[str, str] = field(default_factory=dict)
    rss_mb: dict[str, float] = field(default_factory=dict)
    first_failures: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    ciphertexts: int = 0
    """Distinct credentials opened among the few and among the many."""


def run(plan: Plan, progress: Progress) -> Results:
    """The whole of it, on a stack of its own."""
    facts = machine.facts()
    with testbed(progress) as bed, ExitStack() as stack:
        results = Results(plan, facts, bed.servers)
        runners = _Runners(plan, bed, results, stack, progress)
        groups = plan.groups()
        for series in dict.fromkeys(series for group in groups for series in group):
            runners.start(series.contender)
        for group in groups:
            progress("measuring " + ", ".join(series.title for series in group))
            runners.warm(group)
            for number in range(plan.rounds):
                # Each in its turn, and each in each place: whoever comes before may leave something behind.
                for series in group[number % len(group) :] + group[: number % len(group)]:
                    measured = runners.run(series)
                    if not measured.per_second:
                        raise BenchmarkFailed(f"{series.title}: nothing succeeded, {measured.failures} failed")
                    results.rounds.setdefault(series, []).append(measured)
                    bed.trim_audit_log()
                progress(
                    f"  round {number + 1}: "
                    + ", ".join(f"{results.rounds[each][-1].per_second:,.0f}/s" for each in group)
                )
            if RSS_SERIES in group:
                results.rss_mb["worker at 256 callers"] = runners.contenders[OURS].rss_mb()
        if runners.replicas is not None:
            results.facts = runners.replicas.facts()
        for name, server in runners.servers.items():
            results.rss_mb[name] = server.rss_mb()
        for name, contender in runners.contenders.items():
            results.zeroing[name] = contender.zeroing
            if contender.first_failure:
                results.first_failures[name] = contender.first_failure
    return results


class _Runners:
    """The contenders, started when they are first wanted."""

    def __init__(self, plan: Plan, bed: Testbed, results: Results, stack: ExitStack, progress: Progress) -> None:
        self._plan = plan
        self._bed = bed
        self._results = results
        self._stack = stack
        self._progress = progress
        self.contenders: dict[str, ContenderProcess] = {}
        self.servers: dict[str, rest.RestServer] = {}
        self.replicas: replicas.Replicas | None = None
        self._worker: rewraps.Worker | None = None
        self._writes: list[Request] = []
        self._generator: LoadGenerator | None = None
        self._decryptions: list[Request] = []
        self._list: Path | None = None
        self._warmed: set[str] = set()

    def start(self, name: str) -> None:
        """Starts a contender."""
        if name in self.contenders or name in self.servers:
            return
        if name == VAULT:
            self._decryptions = self._decryptions or self._single_decryptions()
        elif name == KV:
            self._load_generator()
            self._writes = self._writes or rewraps.kv_writes(self._bed, self._plan.credentials)
        elif name in _REPLICAS:
            if self.replicas is None:
                started = replicas.replicas(self._bed, _listed(self._credentials()))
                self.replicas = self._stack.enter_context(started)
        elif name == WORKER:
            self._credentials()
            self._worker = self._worker or self._stack.enter_context(rewraps.worker(self._bed))
        elif name == SERVICE:
            profile = self._progress if self._plan.profile else None
            self.servers[name] = self._stack.enter_context(
                rest.service(self._bed, self._load_generator(), _listed(self._credentials()), profile)
            )
        elif name == BARE:
            self.servers[name] = self._stack.enter_context(
                rest.bare_route(self._bed, self._load_generator(), _listed(self._credentials()))
            )
        else:
            self._start_contender(name)

    def warm(self, group: Sequence[Series]) -> None:
        """Has each of ours open every credential once, so that in all of the group's rounds the ciphertexts are cached.

        Opened anew before that, where it was used already: a cached ciphertext is read again after some minutes, which
        would fall into the rounds of one contender and not of another.
        """
        for name in dict.fromkeys(series.contender for series in group if not series.cold):
            if name in (OURS, PLAIN, SMALL, LARGE):
                order = Order(callers=64, seconds=0, warm_up=0, once=True, fresh=name in self._warmed)
                self.contenders[name].run(order, self._progress)
                self._warmed.add(name)

    def run(self, series: Series) -> Round:
        """One round of one series."""
        plan = self._plan
        if series.contender == VAULT:
            host = self._bed.stack.vault.address.partition("://")[2]
            return self._load_generator().run(
                host, self._decryptions, series.callers, plan.seconds, plan.warm_up, self._bed.cpu_seconds
            )
        if series.contender == KV:
            return rewraps.write(
                self._bed, self._load_generator(), self._writes, series.callers, plan.seconds, plan.warm_up
            )
        if series.contender == WORKER:
            assert self._worker is not None
            return self._worker.run(plan.seconds, plan.warm_up)
        if series.contender in _REPLICAS:
            return self._asked_of_replicas(series.contender)
        if series.contender in self.servers:
            return self.servers[series.contender].run(series.callers, plan.seconds, plan.warm_up)
        order = Order(
            callers=series.callers,
            seconds=plan.seconds,
            warm_up=plan.warm_up,
            once=series.cold,
            fresh=series.cold,
            profile=plan.profile and series.contender in (OURS, SMALL, LARGE),
        )
        return self.contenders[series.contender].run(order, self._progress)

    def _asked_of_replicas(self, name: str) -> Round:
        assert self.replicas is not None
        seconds, warm_up = self._plan.seconds, self._plan.warm_up
        timed = {
            PROXIED: self.replicas.proxied,
            DIRECT: self.replicas.direct,
            HANDED_OFF: self.replicas.handed_off,
        }
        if name in timed:
            return timed[name](seconds, warm_up)
        return self.replicas.suspended() if name == DENIED else self.replicas.committed()

    def _start_contender(self, name: str) -> None:
        bed, database = self._bed, None
        listed = self._credentials() if name not in (SMALL, LARGE) else None
        if listed is None:
            database = "credentials_1m" if name == LARGE else "credentials_1k"
            rows = self._plan.many if name == LARGE else self._plan.few
            sample = rows if self._plan.write_all else min(self._plan.few, rows)
            listed = bed.filled_database(
                f"make_{database.replace('credentials', 'database')}", database, rows, sample, self._progress
            )
            if self._plan.write_all:
                # All are in KV; as many are opened on both sides.
                kept = json.loads(listed.read_text(encoding="ascii"))[: self._plan.few]
                listed.write_text(json.dumps(kept), encoding="ascii")
            self._results.ciphertexts = min(self._plan.few, rows)
        environment = bed.stack.environment()
        environment.pop("VAULT_TOKEN")
        contender = self._stack.enter_context(
            ContenderProcess.started(bed, bed.terms(name, listed, database), environment, zeroing=name in _ZEROED)
        )
        self.contenders[name] = contender

    def _credentials(self) -> Path:
        if self._list is None:
            count = self._plan.credentials
            self._list = self._bed.filled(count, count, self._progress)
        return self._list

    def _single_decryptions(self) -> list[Request]:
        self._load_generator()
        self._credentials()
        stack = self._bed.stack

        async def ask() -> list[Any]:
            async with connected(stack.owner_database_url) as connection:
                return list(await connection.fetch(USUAL_SQL["ciphertexts"], _REQUESTS))

        path = f"/v1/{stack.names.transit}/decrypt/{stack.names.type_key('alpaca')}"
        headers = {"X-Vault-Token": self._bed.vault_token, "Content-Type": "application/json"}
        return [
            Request("POST", path, headers, json.dumps({"ciphertext": row["ciphertext"], "context": row["context"]}))
            for row in blocking(ask())
        ]

    def _load_generator(self) -> LoadGenerator:
        if self._generator is None:
            self._generator = LoadGenerator.found(self._bed.folder, self._progress)
            self._results.generator = self._generator.name
        return self._generator


_ZEROED = (OURS, SMALL, LARGE)
"""The contenders under the zeroing environment; the alternatives have none, and are the faster for it."""


def _listed(file: Path) -> list[Loaded]:
    return [Loaded(UUID(each), user_id) for each, user_id in json.loads(file.read_text(encoding="ascii"))]
