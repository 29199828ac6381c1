"""A contender's process, from outside: started once, idle until it is its turn."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from benchmarks.contender import Terms
from benchmarks.cpu_usage import cpu_seconds, rss_mb
from benchmarks.ratios import Round
from benchmarks.testbed import Testbed
from benchmarks.worker import Order

_ROOT = Path(__file__).parent.parent


class BenchmarkFailed(RuntimeError):
    """A contender didn't start, or ended."""


def zeroed(command: list[str]) -> list[str]:
    """The command, under the zeroing environment: what `vault-credentials exec` gives any program."""
    return [str(Path(sys.executable).with_name("vault-credentials")), "exec", "--", *command]


class ContenderProcess:
    """One contender. `zeroing` is what is in force in it, in its own words."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", log: Path, testbed: Testbed) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._testbed = testbed
        self.zeroing = "unknown"
        self.pid = process.pid
        self.first_failure: str | None = None

    @classmethod
    @contextmanager
    def started(
        cls, testbed: Testbed, terms: Terms, environment: Mapping[str, str], *, zeroing: bool
    ) -> Iterator[Self]:
        """Runs for as long as the block lasts."""
        command = [sys.executable, "-m", "benchmarks.worker"]
        log = testbed.folder / f"{terms.contender.replace(' ', '-').replace(',', '')}.log"
        with (
            open(log, "w", encoding="utf-8") as errors,
            subprocess.Popen(
                zeroed(command) if zeroing else command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=_ROOT,
                env={**os.environ, **environment},
                text=True,
            ) as process,
        ):
            contender = cls(terms.contender, process, log, testbed)
            try:
                ready = contender._asked(dataclasses.asdict(terms))
                contender.pid, contender.zeroing = int(ready["pid"]), str(ready["zeroing"])
                yield contender
            finally:
                if process.stdin is not None:
                    process.stdin.close()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()

    def run(self, order: Order, show: Callable[[str], None]) -> Round:
        """One round. `show` gets the profile, where one was ordered."""
        before = self._cpu()
        outcome = self._asked(dataclasses.asdict(order))
        after = self._cpu()
        if outcome["profile"]:
            show(outcome["profile"])
        self.first_failure = self.first_failure or outcome["first_failure"]
        opens = max(outcome["opens"], 1)
        return Round(
            per_second=outcome["per_second"],
            p50_ms=outcome["p50_ms"],
            p99_ms=outcome["p99_ms"],
            failures=outcome["failures"],
            cpu_us={name: (after[name] - before[name]) / opens * 1e6 for name in after},
        )

    def rss_mb(self) -> float:
        """What it has in memory now."""
        return rss_mb(self.pid)

    def _cpu(self) -> dict[str, float]:
        return {"python": cpu_seconds(self.pid), **self._testbed.cpu_seconds()}

    def _asked(self, line: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(line, default=str) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            told = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise BenchmarkFailed(f"{self.name} ended: {told}")
        return dict(json.loads(answer))
