"""`make soak`: everything at once for half an hour. No call may fail, no secret be another, no process grow.

Two replicas and a worker on a stack of their own. Callers use the orchestrator's client: they have credentials handed
off and compare them with what was stored, call a stand-in provider through the proxy, read metadata, store, update,
roll back and delete; all the while keys are rotated, credentials rewrapped, and old key versions retired.

Vault's own memory is shown and not judged: it keeps the last 131,072 entries of its storage (`cache_size`,
https://developer.hashicorp.com/vault/docs/configuration) and maps its file, so it grows with whatever is written.
"""

import asyncio
import json
import random
import secrets
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from benchmarks.contender_process import BenchmarkFailed
from benchmarks.cpu_usage import rss_mb
from benchmarks.loading import Loaded
from benchmarks.machine import facts
from benchmarks.ratios import quantile
from benchmarks.replicas import Replicas, replicas
from benchmarks.rewraps import worker
from benchmarks.testbed import Testbed, WrongTerms, testbed
from service.client import CredentialsClient, VaultOptions
from service.errors import CredentialsError
from service.localstack import identity_tokens
from service.localstack.postgres_server import blocking

_READ = 200
"""Credentials that only are read."""
_SAMPLE_SECONDS = 5.0
_TOKEN_SECONDS = 120.0
_TOLD_SECONDS = 60.0
_GROWTH = 0.05
"""How much more a process may have in memory at the end than in the middle, as a share of that, beside `_SLACK_MB`."""
_SLACK_MB = 5.0
_VAULT = "Vault"

_STILL_NEEDED = ("still_needed", "urn:vault-credentials:error:versions-still-needed")
_NEEDED: Mapping[str, Any] = {}
"""A retirement was refused, since something is still under the old version."""

_Pair = tuple[str, str]


@dataclass
class Tally:
    """What was done, how long it took, and what went wrong."""

    took_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[str] = field(default_factory=Counter)
    did: Counter[str] = field(default_factory=Counter)
    """Rotations, and what belongs to them."""
    memory: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Megabytes of each process, every `_SAMPLE_SECONDS`."""

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts one call; what it raises is counted as failed, and goes no further."""
        began = time.perf_counter()
        try:
            yield
        except (CredentialsError, AssertionError) as error:
            self.failed[f"{what}: {type(error).__name__}"] += 1
        else:
            self.took_ms[what].append((time.perf_counter() - began) * 1000)

    def growth(self) -> dict[str, tuple[float, float, bool]]:
        """For each process: megabytes in the third quarter, in the last, and whether that is flat."""
        found = {}
        for name, samples in self.memory.items():
            half, quarter = len(samples) // 2, len(samples) // 4
            middle, end = (median(part) for part in (samples[half : half + quarter], samples[-quarter:]))
            found[name] = (middle, end, end <= middle * (1 + _GROWTH) + _SLACK_MB)
        return found


@dataclass
class Caller:
    """Does things at random with credentials of one user's, until its time is up."""

    tally: Tally
    clients: list[CredentialsClient]
    user_id: str
    pause: float
    pairs: dict[UUID, _Pair] = field(default_factory=dict, repr=False)
    """What each was last acknowledged to be. Test data, as plain strings."""
    before: dict[UUID, _Pair] = field(default_factory=dict, repr=False)

    @property
    def _client(self) -> CredentialsClient:
        return random.choice(self.clients)  # noqa: S311 - which replica

    async def store(self) -> None:
        """A credential more."""
        pair = _new_pair()
        stored = await self._client.store(
            uuid4(), "alpaca", SecretStr(pair[0]), SecretStr(pair[1]), user_id=self.user_id
        )
        self.pairs[UUID(stored.id)] = pair

    async def read(self, until: float) -> None:
        """What nobody changes."""
        await self._at_random({"open": 6, "proxied": 3, "metadata": 3, "list": 1}, until)

    async def write(self, until: float) -> None:
        """What nobody else changes."""
        await self._at_random({"open": 8, "store": 2, "update": 4, "rollback": 2, "delete": 1}, until)

    async def _at_random(self, weights: Mapping[str, int], until: float) -> None:
        while time.monotonic() < until:
            (what,) = random.choices(list(weights), list(weights.values()))  # noqa: S311 - not a secret
            if not self.pairs:
                what = "store"
            with self.tally.timed(what):
                await self._do(what)
            await asyncio.sleep(self.pause)

    async def _do(self, what: str) -> None:
        if what == "store":
            await self.store()
            return
        at, client = random.choice(list(self.pairs)), self._client  # noqa: S311 - not a secret
        match what:
            case "open":
                async with client.credential(at, user_id=self.user_id) as opened:
                    assert tuple(map(str, opened)) == self.pairs[at], "another secret"
            case "proxied":
                answer = await client.proxy(at, "GET", "/v2/account", user_id=self.user_id)
                assert answer.status_code == httpx.codes.OK, "a provider's error"
            case "metadata":
                assert (await client.get(at, user_id=self.user_id)).is_active
            case "list":
                async for _ in client.list(user_id=self.user_id):
                    break
            case "update":
                pair = _new_pair()
                await client.update(
                    at, api_key=SecretStr(pair[0]), secret_key=SecretStr(pair[1]), user_id=self.user_id, if_match="*"
                )
                self.before[at], self.pairs[at] = self.pairs[at], pair
            case "rollback" if at in self.before:
                await client.rollback(at, user_id=self.user_id, if_match="*")
                self.before[at], self.pairs[at] = self.pairs[at], self.before[at]
            case "delete":
                await client.delete(at, user_id=self.user_id, if_match="*")
                del self.pairs[at]
                self.before.pop(at, None)


@dataclass
class Operator:
    """Rotates, rewraps and retires over REST, one after the other."""

    tally: Tally
    base_url: str
    key: str
    token: Callable[[], str]

    async def rotate(self, until: float, every: float) -> None:
        """For as long; a failure is counted, and ends that round."""
        async with httpx.AsyncClient(base_url=self.base_url, trust_env=False, timeout=60) as client:
            while time.monotonic() < until:
                began = time.monotonic()
                with suppress(BenchmarkFailed):
                    await self._round(client)
                await asyncio.sleep(max(0.0, min(began + every, until) - time.monotonic()))

    async def _round(self, client: httpx.AsyncClient) -> None:
        await self._over(client, "rotate")
        self.tally.did["rotations"] += 1
        newest = (await self._asked(client, "GET", f"/v1/keys/{self.key}")).json()["latest_version"]
        while True:
            rewrapped = await self._over(client, "rewrap")
            self.tally.did["credentials rewrapped"] += rewrapped["done"]
            retired = await self._over(client, "retire", {"below_version": newest}, may_be_needed=True)
            if retired is not _NEEDED:
                break  # else a write that began before the rotation was committed after the rewrap
        self.tally.did["retirements"] += 1

    async def _over(
        self,
        client: httpx.AsyncClient,
        what: str,
        body: Mapping[str, object] | None = None,
        *,
        may_be_needed: bool = False,
    ) -> Mapping[str, Any]:
        """A job's end; of one that ended while its asker waited, its key's details."""
        answer = await self._asked(client, "POST", f"/v1/keys/{self.key}/{what}", body)
        while answer.status_code == httpx.codes.ACCEPTED or answer.json().get("state") in ("waiting", "running"):
            await asyncio.sleep(0.5)
            answer = await self._asked(client, "GET", f"/v1/jobs/{answer.json()['id']}")
        job: dict[str, Any] = answer.json()
        if may_be_needed and (job.get("reason") or job.get("type")) in _STILL_NEEDED:
            return _NEEDED
        if not answer.is_success or job.get("state") == "failed":
            self.tally.failed[f"{what}: status {answer.status_code}, {job.get('reason') or job.get('type')}"] += 1
            raise BenchmarkFailed
        return job

    async def _asked(
        self, client: httpx.AsyncClient, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> httpx.Response:
        return await client.request(method, path, headers={"Authorization": f"Bearer {self.token()}"}, json=body)


def _new_pair() -> _Pair:
    return f"PK{secrets.token_hex(9).upper()}", secrets.token_urlsafe(30)


async def _soak(bed: Testbed, both: Replicas, worker_pid: int, plan: "Plan") -> Tally:
    tally, tokens = Tally(), _Tokens(bed)
    await tokens.refresh()
    pids = {f"replica {number + 1}": pid for number, pid in enumerate(both.pids)} | {"worker": worker_pid}
    vault = bed.folder / "vault.pid.json"
    if vault.exists():
        pids[_VAULT] = int(json.loads(vault.read_text(encoding="utf-8"))["pid"])
    async with _clients(bed, both, tokens) as clients:
        readers = [Caller(tally, clients, f"reader-{number}", plan.pause) for number in range(plan.callers)]
        writers = [Caller(tally, clients, f"writer-{number}", plan.pause) for number in range(plan.callers)]
        for number in range(_READ):
            await readers[number % len(readers)].store()
        operator = Operator(
            tally, f"http://127.0.0.1:{both.ports[0]}", bed.stack.names.type_key("alpaca"), tokens.operator
        )
        until = time.monotonic() + plan.seconds
        beside = [
            asyncio.create_task(work) for work in (tokens.refreshing(), _sample(tally, pids), _tell(tally, until))
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(operator.rotate(until, plan.rotate_seconds))
                for reader, writer in zip(readers, writers, strict=True):
                    group.create_task(reader.read(until))
                    group.create_task(writer.write(until))
        finally:
            for task in beside:
                task.cancel()
        for caller in (*readers, *writers):
            for at, pair in caller.pairs.items():
                with tally.timed("open at the end"):
                    async with clients[0].credential(at, user_id=caller.user_id) as opened:
                        assert tuple(map(str, opened)) == pair, "another secret"
    return tally


class _Tokens:
    """Fresh tokens: they last for less than a soak."""

    def __init__(self, bed: Testbed) -> None:
        self._bed = bed
        self._tokens: dict[str, str] = {}

    def orchestrator(self) -> str:
        return self._tokens["orchestrator"]

    def operator(self) -> str:
        return self._tokens["operator"]

    async def refresh(self) -> None:
        def mint() -> dict[str, str]:
            with self._bed.stack.vault.admin() as admin:
                return {role: identity_tokens.mint(admin, role, "soak") for role in ("orchestrator", "operator")}

        self._tokens = await asyncio.to_thread(mint)

    async def refreshing(self) -> None:
        while True:
            await asyncio.sleep(_TOKEN_SECONDS)
            await self.refresh()


async def _sample(tally: Tally, pids: Mapping[str, int]) -> None:
    while True:
        for name, pid in pids.items():
            tally.memory[name].append(rss_mb(pid))
        await asyncio.sleep(_SAMPLE_SECONDS)


async def _tell(tally: Tally, until: float) -> None:
    while True:
        await asyncio.sleep(_TOLD_SECONDS)
        calls, failed = sum(map(len, tally.took_ms.values())), sum(tally.failed.values())
        left = max(0.0, until - time.monotonic()) / 60
        print(f"{calls:,} calls, {failed} failed, {dict(tally.did)}; {left:.0f} minutes left", file=sys.stderr)


@asynccontextmanager
async def _clients(bed: Testbed, both: Replicas, tokens: _Tokens) -> AsyncIterator[list[CredentialsClient]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                CredentialsClient(
                    f"http://127.0.0.1:{port}",
                    token=tokens.orchestrator,
                    vault=VaultOptions(addr=bed.stack.vault.address),
                    timeout=60,
                    retries=0,  # what fails once has failed
                )
            )
            for port in both.ports
        ]


@dataclass(frozen=True)
class Plan:
    """How long, how many, how fast."""

    seconds: float
    callers: int
    pause: float
    rotate_seconds: float


def show(tally: Tally, console: Console) -> bool:
    """Prints it. Returns whether nothing failed and nothing grew."""
    calls = Table("what", "calls", "p50 ms", "p99 ms", title="Calls")
    for what, took in sorted(tally.took_ms.items()):
        ordered = sorted(took)
        calls.add_row(what, f"{len(ordered):,}", f"{quantile(ordered, 0.5):.1f}", f"{quantile(ordered, 0.99):.1f}")
    memory = Table("process", "third quarter, MB", "last quarter, MB", "", title="Memory (medians)")
    growth = tally.growth()
    for name, (middle, end, is_flat) in growth.items():
        verdict = "not judged" if name == _VAULT else "flat" if is_flat else "GROWS"
        memory.add_row(name, f"{middle:.1f}", f"{end:.1f}", verdict)
    for each in (calls, memory):
        console.print(each)
    console.print("; ".join(f"{what}: {count:,}" for what, count in tally.did.items()))
    console.print("failed:", dict(tally.failed) or "none", highlight=False)
    return not tally.failed and all(is_flat for name, (_, _, is_flat) in growth.items() if name != _VAULT)


def main(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 30.0,
    callers: Annotated[int, typer.Option(min=1, help="Callers that read, and as many that write.")] = 8,
    pause: Annotated[float, typer.Option(min=0.0, help="Seconds that each waits between two calls.")] = 0.05,
    rotate_seconds: Annotated[float, typer.Option(min=1.0, help="From one rotation to the next.")] = 60.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything to this file too.")] = None,
) -> None:
    """Everything at once, for long. Exit status 1: a call failed, a secret was another, or a process grew."""
    plan = Plan(minutes * 60, callers, pause, rotate_seconds)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.default_int_handler)
    try:
        with testbed(lambda line: print(line, file=sys.stderr, flush=True)) as bed:
            somebody = [Loaded(uuid4(), "nobody")]
            with replicas(bed, somebody) as both, worker(bed) as working:
                tally = blocking(_soak(bed, both, working.pid, plan))
    except (BenchmarkFailed, WrongTerms, CredentialsError) as error:
        print(f"soak: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    is_good = show(tally, Console(width=None if sys.stdout.isatty() else 120))
    if json_file is not None:
        found = {"machine": facts(), "memory": tally.memory, "did": tally.did, "failed": tally.failed}
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(0 if is_good else 1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
