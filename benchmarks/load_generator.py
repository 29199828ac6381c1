"""Load on an HTTP server from outside Python: by `wrk` where it is on PATH, else by the Go program in this package.

On two cores each microsecond the generator takes is one the server lacks. Measured here: wrk takes about 19 us for a
request, the Go program 33, bombardier 50 and more; Vault takes 250 for a decryption.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from benchmarks.ratios import Round
from service.localstack.go_build import find_go

_SOURCE = Path(__file__).parent / "load_generator"
_THREADS = 2  # of wrk; the Go program uses as many cores as there are


@dataclass(frozen=True, slots=True)
class Request:
    """One request, made beforehand."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: str = ""

    def wire(self, host: str) -> str:
        """As HTTP/1.1 has it."""
        headers = {"Host": host, **self.headers, "Content-Length": str(len(self.body.encode()))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n{self.body}"


class LoadGenerator:
    """Closed loops on a number of connections: each sends its next request when it has its answer."""

    def __init__(self, command: Sequence[str], name: str, folder: Path) -> None:
        self.name = name
        self._command = list(command)
        self._folder = folder

    @classmethod
    def found(cls, folder: Path, progress: Callable[[str], None]) -> "LoadGenerator":
        """The strongest there is here.

        Raises:
            ConfigurationError: neither wrk nor a Go toolchain is here.
        """
        wrk = shutil.which("wrk")
        if wrk is not None:
            said = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False).stdout
            version = re.search(r"wrk \S+", said)
            return cls([wrk], version[0] if version else "wrk", folder)
        return cls([str(_built(progress))], "benchmarks/load_generator (Go)", folder)

    def run(
        self,
        host: str,
        requests: Sequence[Request],
        connections: int,
        seconds: float,
        warm_up: float,
        cpu_seconds: Callable[[], Mapping[str, float]],
    ) -> Round:
        """One round on the server at `host` (host:port), the requests in turn. Answers but 200 are failures."""
        wires = [request.wire(host) for request in requests]
        own_before, before = _children(), cpu_seconds()
        ours = Path(self._command[0]).name == "wrk"
        outcome = (self._wrk if ours else self._go)(host, wires, connections, seconds, warm_up)
        own_after, after = _children(), cpu_seconds()
        answered = max(outcome["requests"], 1)
        used = {name: after[name] - before[name] for name in after} | {"generator": own_after - own_before}
        return Round(
            per_second=outcome["per_second"],
            p50_ms=outcome["p50_ms"],
            p99_ms=outcome["p99_ms"],
            failures=int(outcome["failures"]),
            cpu_us={name: value / answered * 1e6 for name, value in used.items()},
        )

    def _go(
        self, host: str, wires: Sequence[str], connections: int, seconds: float, warm_up: float
    ) -> dict[str, float]:
        done = subprocess.run(
            [*self._command, str(connections), str(warm_up), str(seconds)],
            input=json.dumps({"address": host, "requests": wires}),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {done.stderr.strip()}")
        return dict(json.loads(done.stdout))

    def _wrk(
        self, host: str, wires: Sequence[str], connections: int, seconds: float, warm_up: float
    ) -> dict[str, float]:
        # wrk has no warm-up of its own, so it runs for the whole time; its duration is in whole seconds.
        script = self._folder / "wrk.lua"
        script.write_text(_LUA.replace("REQUESTS", ",\n".join(map(_quoted, wires))), encoding="utf-8")
        threads = min(_THREADS, connections, os.cpu_count() or 1)
        done = subprocess.run(
            [
                *self._command,
                f"--threads={threads}",
                f"--connections={connections}",
                f"--duration={max(1, round(seconds + warm_up))}s",
                "--timeout=10s",
                f"--script={script}",
                f"http://{host}/",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        said = re.search(r"^\{.*\}$", done.stdout, re.MULTILINE)
        if said is None:
            raise RuntimeError(f"{self.name}: {done.stderr.strip() or done.stdout.strip()}")
        return dict(json.loads(said[0]))


# Each thread starts elsewhere in the list. A request is sent as it is written.
_LUA = """\
local requests = {
REQUESTS
}
local threads, next_request = 0, 0
function setup(thread)
   thread:set("start", threads * 97)
   threads = threads + 1
end
function init(args)
   next_request = start
end
function request()
   next_request = next_request % #requests + 1
   return requests[next_request]
end
function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format('\\n{"requests": %d, "per_second": %f, "p50_ms": %f, "p99_ms": %f, "failures": %d}\\n',
      summary.requests, (summary.requests - errors.status) / summary.duration * 1e6, latency:percentile(50) / 1000,
      latency:percentile(99) / 1000,
      errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""


def _quoted(text: str) -> str:
    """As a Lua string. (A long one, in brackets, would lose its carriage returns.)"""
    for character, written in (("\\", "\\\\"), ('"', '\\"'), ("\r", "\\r"), ("\n", "\\n")):
        text = text.replace(character, written)
    return f'"{text}"'


def _built(progress: Callable[[str], None]) -> Path:
    """The Go program, built from the source beside this module, once for each version of it; it has no dependency."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_SOURCE.iterdir()))).hexdigest()[:12]
    suffix = ".exe" if sys.platform == "win32" else ""
    target = platformdirs.user_cache_path("vault-credentials") / f"load-generator-{digest}{suffix}"
    if target.exists():
        return target
    progress("building the load generator")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
    subprocess.run(
        [find_go(os.environ), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(fresh), "."],
        cwd=_SOURCE,
        env=environment,
        check=True,
    )
    fresh.rename(target)
    return target


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
