"""The proxy and the kill switch: two replicas of the service, a stand-in provider, and the same without them."""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from urllib.parse import quote

import httpx

from benchmarks.contender_process import BenchmarkFailed
from benchmarks.cpu_usage import cpu_seconds
from benchmarks.loading import Loaded, connected
from benchmarks.ratios import Round, quantile
from benchmarks.rest import SERVE, serving
from benchmarks.statements import QUERIES
from benchmarks.testbed import Testbed
from service.localstack import identity_tokens
from service.localstack.postgres_server import blocking
from service.localstack.state_dir import free_port

_TIMEOUT = 30.0
_SUSPENSIONS = 20
"""In a round."""

_UNLIMITED = {
    f"CREDENTIALS_{name}_PER_MINUTE{whose}": "0" for name in ("PROXY_CALLS", "HANDOFFS") for whose in ("", "_CALLER")
}


@dataclass
class Replicas:
    """Two replicas and the stand-in, each in its process; the calls are one user's, with that user's token."""

    testbed: Testbed
    ports: Sequence[int]
    pids: Sequence[int]
    provider: int
    credential: Loaded
    user: dict[str, str] = field(repr=False)
    orchestrator: dict[str, str] = field(repr=False)
    operator: dict[str, str] = field(repr=False)
    cut_ms: list[float] = field(default_factory=list)
    """From a suspension's answer to the end of a stream at the other replica."""

    def direct(self, seconds: float, warm_up: float) -> Round:
        """A lone caller asking the provider itself, by httpx."""
        keys = {"APCA-API-KEY-ID": "P" * 20, "APCA-API-SECRET-KEY": "s" * 40}
        return blocking(self._lone(f"http://127.0.0.1:{self.provider}/v2/account", keys, seconds, warm_up))

    def proxied(self, seconds: float, warm_up: float) -> Round:
        """The same caller, the same question, through the service."""
        return blocking(self._lone(self._at(0, "/proxy/v2/account"), self.user, seconds, warm_up))

    def handed_off(self, seconds: float, warm_up: float) -> Round:
        """A lone orchestrator having a credential handed off; nobody unwraps."""
        return blocking(self._lone(self._at(0, "/handoff"), self.orchestrator, seconds, warm_up, method="POST"))

    def suspended(self) -> Round:
        """Suspensions at one replica: milliseconds from sending each to the first denial at the other.

        `failures`: calls that were begun after a suspension's answer and granted all the same.
        """
        return blocking(self._suspended())

    def committed(self) -> Round:
        """The alternative: milliseconds of the same row's commit alone."""
        return blocking(self._committed())

    async def _lone(
        self, url: str, headers: dict[str, str], seconds: float, warm_up: float, method: str = "GET"
    ) -> Round:
        took: list[float] = []
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:

            async def ask() -> float:
                began = time.perf_counter()
                answer = await client.request(method, url, headers=headers)
                if not answer.is_success:
                    raise BenchmarkFailed(f"{method} answered {answer.status_code}: {answer.text[:300]}")
                return (time.perf_counter() - began) * 1000

            until = time.perf_counter() + warm_up
            while time.perf_counter() < until:
                await ask()
            before, began = self._cpu(), time.perf_counter()
            while (elapsed := time.perf_counter() - began) < seconds:
                took.append(await ask())
            after = self._cpu()
        used = {name: (after[name] - before[name]) / len(took) * 1e6 for name in after}
        return _round(took, elapsed, cpu_us=used)

    async def _suspended(self) -> Round:
        took, granted_after = [], 0
        began_all = time.perf_counter()
        switch = f"http://127.0.0.1:{self.ports[0]}/v1/users/{quote(self.credential.user_id, safe='')}/suspension"
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as operator,
            httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as caller,
        ):
            for _ in range(_SUSPENSIONS):
                async with self._streaming() as cut:
                    began = time.perf_counter()
                    suspending = asyncio.create_task(operator.post(switch, headers=self.operator))
                    answered: float | None = None
                    while True:
                        asked = time.perf_counter()
                        answer = await caller.get(self._at(1, "/proxy/v2/account"), headers=self.user)
                        if answer.status_code == httpx.codes.FORBIDDEN:
                            took.append((time.perf_counter() - began) * 1000)
                            break
                        granted_after += answered is not None and asked > answered
                        if suspending.done():
                            answered = answered or time.perf_counter()
                    (await suspending).raise_for_status()
                    answered = time.perf_counter()
                    self.cut_ms.append((await cut() - answered) * 1000)
                (await operator.delete(switch, headers=self.operator)).raise_for_status()
        return _round(took, time.perf_counter() - began_all, failures=granted_after)

    @asynccontextmanager
    async def _streaming(self) -> AsyncIterator[Callable[[], Awaitable[float]]]:
        """A stream under way at the other replica. Yields what waits for its end and tells when that was."""
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client,
            client.stream("GET", self._at(1, "/proxy/v2/orders"), headers=self.user) as answer,
        ):
            chunks = answer.aiter_raw()
            await anext(chunks)

            async def drain() -> float:
                try:
                    async for _ in chunks:
                        pass
                except httpx.TransportError:
                    return time.perf_counter()
                raise BenchmarkFailed("a stream that never ends ended as if whole")

            drained = asyncio.create_task(drain())
            yield lambda: drained

    async def _committed(self) -> Round:
        took = []
        began_all = time.perf_counter()
        async with connected(self.testbed.stack.database_url) as connection:
            for _ in range(_SUSPENSIONS):
                user_id = secrets.token_hex(8)
                began = time.perf_counter()
                await connection.execute(QUERIES["suspend"], user_id)
                took.append((time.perf_counter() - began) * 1000)
                await connection.execute(QUERIES["resume"], user_id)
        return _round(took, time.perf_counter() - began_all)

    def _at(self, replica: int, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[replica]}/v1/credentials/{self.credential.id}{path}"

    def _cpu(self) -> dict[str, float]:
        return {"python": sum(map(cpu_seconds, self.pids)), **self.testbed.cpu_seconds()}

    def facts(self) -> dict[str, Any]:
        """What the tables don't hold."""
        return {"streams_cut_ms": round(median(self.cut_ms), 1), "streams_cut": len(self.cut_ms)} if self.cut_ms else {}


@contextmanager
def replicas(testbed: Testbed, credentials: Sequence[Loaded]) -> Iterator[Replicas]:
    """Everything, started."""
    credential = credentials[0]
    with testbed.stack.vault.admin() as admin:
        user, orchestrator, operator = (
            {"Authorization": f"Bearer {identity_tokens.mint(admin, role, name)}"}
            for role, name in (("user", credential.user_id), ("orchestrator", "bench"), ("operator", "bench-operator"))
        )
    provider, *ports = (free_port() for _ in range(3))
    with ExitStack() as stack:
        command = [sys.executable, "-m", "benchmarks.stand_in", str(provider)]
        stack.enter_context(serving(command, {}, provider, testbed.folder / "stand-in.log"))
        pids = []
        for number, port in enumerate(ports):
            environment = {
                **testbed.stack.environment(),
                **_UNLIMITED,
                "ALPACA_BASE_URL": f"http://127.0.0.1:{provider}",
                "CREDENTIALS_PORT": str(port),
            }
            environment.pop("VAULT_TOKEN")
            log = testbed.folder / f"replica-{number}.log"
            pids.append(stack.enter_context(serving(SERVE, environment, port, log)))
        acting = {**orchestrator, "X-User-Id": credential.user_id}
        yield Replicas(testbed, ports, pids, provider, credential, user, acting, operator)


def _round(
    took: Sequence[float], elapsed: float, *, failures: int = 0, cpu_us: dict[str, float] | None = None
) -> Round:
    ordered = sorted(took)
    return Round(
        per_second=len(ordered) / elapsed,
        p50_ms=quantile(ordered, 0.5),
        p99_ms=quantile(ordered, 0.99),
        failures=failures,
        cpu_us=cpu_us or {},
    )
