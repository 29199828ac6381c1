"""Rewrapping by `vault-credentials worker`; and beside it Vault's KV engine, written to by a load generator alone.

A rewrap writes to KV twice, data and custom metadata; both sides are counted in such writes.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from benchmarks.contender_process import BenchmarkFailed
from benchmarks.cpu_usage import cpu_seconds
from benchmarks.load_generator import LoadGenerator, Request
from benchmarks.loading import connected
from benchmarks.ratios import Round
from benchmarks.statements import QUERIES
from benchmarks.testbed import Testbed
from service.localstack.postgres_server import blocking

_WRITES = 2
_MOUNT = "benchmarks-writes"
_CIPHERTEXT = f"vault:v1:{'A' * 120}"
_PATIENCE = 60.0


@dataclass(frozen=True)
class Worker:
    """A worker in a process of its own."""

    pid: int
    testbed: Testbed

    def run(self, seconds: float, warm_up: float) -> Round:
        """One round: the key is rotated, and credentials rewrapped for so long."""
        return blocking(self._run(seconds, warm_up))

    async def _run(self, seconds: float, warm_up: float) -> Round:
        async with connected(self.testbed.stack.owner_database_url) as connection:
            await _over(connection, await self._asked(connection, "rotate"))
            job = await self._asked(connection, "rewrap")
            started = await _next_count(connection, job, after=time.monotonic() + warm_up)
            before = self._cpu()
            ended = await _next_count(connection, job, after=started[0] + seconds)
            after = self._cpu()
            await connection.execute(QUERIES["stop_job"], job)
            await _over(connection, job)
        writes = _WRITES * (ended[1] - started[1])
        if not writes:
            raise BenchmarkFailed("the worker did not rewrap")
        return Round(
            per_second=writes / (ended[0] - started[0]),
            p50_ms=0.0,  # nobody waits for one of them
            p99_ms=0.0,
            cpu_us={name: (after[name] - before[name]) / writes * 1e6 for name in after},
        )

    async def _asked(self, connection: Any, kind: str) -> UUID:
        job: UUID = await connection.fetchval(QUERIES["ask_for_job"], kind, self.testbed.stack.names.type_key("alpaca"))
        return job

    def _cpu(self) -> dict[str, float]:
        return {"python": cpu_seconds(self.pid), **self.testbed.cpu_seconds()}


async def _next_count(connection: Any, job: UUID, *, after: float) -> tuple[float, int]:
    """When the first batch from then on was counted, and how many had been done by then."""
    await asyncio.sleep(max(0.0, after - time.monotonic()))
    _state, first = await _progress(connection, job)
    while time.monotonic() < after + _PATIENCE:
        state, done = await _progress(connection, job)
        if done != first:
            return time.monotonic(), done
        if state not in ("waiting", "running"):
            raise BenchmarkFailed("there were too few credentials for a round: --credentials")
        await asyncio.sleep(0.005)
    raise BenchmarkFailed("the worker does not get on")


async def _over(connection: Any, job: UUID) -> None:
    until = time.monotonic() + _PATIENCE
    while (await _progress(connection, job))[0] in ("waiting", "running"):
        if time.monotonic() > until:
            raise BenchmarkFailed("the worker does not end a job")
        await asyncio.sleep(0.02)


async def _progress(connection: Any, job: UUID) -> tuple[str, int]:
    row = await connection.fetchrow(QUERIES["job_progress"], job)
    return row["state"], row["done"]


@contextmanager
def worker(testbed: Testbed) -> Iterator[Worker]:
    """`vault-credentials worker`, for as long as the block lasts."""
    environment = {**os.environ, **testbed.stack.environment(), "CREDENTIALS_JOB_POLL_SECONDS": "0.1"}
    environment.pop("VAULT_TOKEN")
    command = [sys.executable, "-m", "service.cli", "worker"]
    with (testbed.folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        try:
            yield Worker(process.pid, testbed)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def kv_writes(testbed: Testbed, paths: int) -> list[Request]:
    """Writes of ciphertexts to KV, on a mount of their own, where a write need not say which version it follows;
    to as many paths, and such, as there are credentials."""
    stack = testbed.stack
    with stack.vault.admin() as admin:
        if f"{_MOUNT}/" not in admin.data("GET", "sys/mounts"):
            admin.call("POST", f"sys/mounts/{_MOUNT}", {"type": "kv", "options": {"version": "2"}})
            admin.call("POST", f"{_MOUNT}/config", {"max_versions": 100})
    body = json.dumps({"data": {"ciphertext": _CIPHERTEXT}})
    headers = {"X-Vault-Token": stack.vault.token, "Content-Type": "application/json"}
    return [Request("POST", f"/v1/{_MOUNT}/data/{uuid4()}/{uuid4()}", headers, body) for _ in range(paths)]


def write(
    testbed: Testbed,
    generator: LoadGenerator,
    requests: list[Request],
    connections: int,
    seconds: float,
    warm_up: float,
) -> Round:
    """One round of them."""
    host = testbed.stack.vault.address.partition("://")[2]
    return generator.run(host, requests, connections, seconds, warm_up, testbed.cpu_seconds)
