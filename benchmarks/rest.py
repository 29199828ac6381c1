"""The REST contenders: the service as `vault-credentials serve` runs it, and the bare route, each in its process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx

from benchmarks.contender_process import BenchmarkFailed, zeroed
from benchmarks.cpu_usage import cpu_seconds, rss_mb
from benchmarks.load_generator import LoadGenerator, Request
from benchmarks.loading import Loaded
from benchmarks.ratios import Round
from benchmarks.testbed import Testbed
from service.localstack import identity_tokens
from service.localstack.state_dir import free_port

_ROOT = Path(__file__).parent.parent
_START_SECONDS = 60.0
_PROFILE_LINES = 60

SERVE = (str(Path(sys.executable).with_name("vault-credentials")), "serve")
"""The command that serves, as a deployment calls it."""


@dataclass(frozen=True)
class RestServer:
    """A server in a process of its own, and what to ask of it."""

    pid: int
    port: int
    requests: Sequence[Request]
    testbed: Testbed
    generator: LoadGenerator

    def run(self, connections: int, seconds: float, warm_up: float) -> Round:
        """One round."""
        return self.generator.run(f"127.0.0.1:{self.port}", self.requests, connections, seconds, warm_up, self._cpu)

    def rss_mb(self) -> float:
        """What it has in memory now."""
        return rss_mb(self.pid)

    def _cpu(self) -> dict[str, float]:
        return {"python": cpu_seconds(self.pid), **self.testbed.cpu_seconds()}


@contextmanager
def service(
    testbed: Testbed, generator: LoadGenerator, credentials: Sequence[Loaded], profile: Callable[[str], None] | None
) -> Iterator[RestServer]:
    """The service. The requests are one user's, for that user's credentials, with that user's token.

    `profile`: it runs under cProfile, and this is given what that found.
    """
    user_id = credentials[0].user_id
    with testbed.stack.vault.admin() as admin:
        token = identity_tokens.mint(admin, "user", user_id)
    requests = [
        Request("GET", f"/v1/credentials/{each.id}", {"Authorization": f"Bearer {token}"})
        for each in credentials
        if each.user_id == user_id
    ]
    port = free_port()
    environment = {**testbed.stack.environment(), "CREDENTIALS_PORT": str(port)}
    environment.pop("VAULT_TOKEN")
    command = list(SERVE)
    if profile is not None:
        command = zeroed([sys.executable, "-m", "cProfile", "-s", "tottime", *command])
    log = testbed.folder / "rest-service.log"
    with serving(command, environment, port, log) as pid:
        yield RestServer(pid, port, requests, testbed, generator)
    if profile is not None:
        found = log.read_text(encoding="utf-8").partition("function calls")[2]
        profile("\n".join(found.splitlines()[:_PROFILE_LINES]))


@contextmanager
def bare_route(testbed: Testbed, generator: LoadGenerator, credentials: Sequence[Loaded]) -> Iterator[RestServer]:
    """The bare route, under the same zeroing environment. It is sent the same headers, and looks at none."""
    port = free_port()
    request = Request("GET", f"/v1/credentials/{credentials[0].id}", {"Authorization": f"Bearer {'x' * 800}"})
    command = zeroed([sys.executable, "-m", "benchmarks.bare_route", str(port)])
    with serving(command, {}, port, testbed.folder / "bare-route.log") as pid:
        yield RestServer(pid, port, [request], testbed, generator)


@contextmanager
def serving(command: Sequence[str], environment: Mapping[str, str], port: int, log: Path) -> Iterator[int]:
    """A server in a process of its own, which answers; yields its pid.

    Raises:
        BenchmarkFailed: it doesn't start.
    """
    with (
        open(log, "w", encoding="utf-8") as output,
        subprocess.Popen(
            command, stdout=output, stderr=output, cwd=_ROOT, env={**os.environ, **environment}
        ) as process,
    ):
        try:
            _wait_until_it_answers(process, port, log)
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/v1/credentials/{UUID(int=0)}", trust_env=False)
        except httpx.HTTPError:
            time.sleep(0.1)
            continue
        return
    raise BenchmarkFailed(f"the server did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
