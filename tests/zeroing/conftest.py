"""What the memory proof's tests share: gates before Vault and Alpaca, and the lines that tell what was found."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.memory.shim import glibc_version
from tests.doubles.alpaca import AlpacaDouble
from tests.doubles.certificate_authority import CertificateAuthority
from tests.support import Stack
from tests.zeroing.gate import Gate
from tests.zeroing.processes import Found, scan, scan_until_gone

COLLECT_SECONDS = 1.0
"""The service's own default for how long garbage that refers to itself may last."""

WITHIN = 2 * COLLECT_SECONDS
"""The collector may have come by just before, and a scan takes its time."""


@dataclass
class Line:
    """One arm's figures."""

    processes: set[int] = field(default_factory=set)
    scans: int = 0
    lengths: set[int] = field(default_factory=set)
    windows: list[int] = field(default_factory=list)
    where: set[str] = field(default_factory=set)


class Ledger:
    """What was found, arm by arm; printed when all tests have run."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], Line] = {}

    def note(self, arm: str, what: str, pid: int, keys: Sequence[str], found: Found) -> Found:
        """Adds a scan to its arm's figures."""
        line = self._lines.setdefault((arm, what), Line())
        line.processes.add(pid)
        line.scans += 1
        line.lengths.update(map(len, keys))
        line.windows.append(found.windows)
        line.where.update(found.where)
        return found

    async def gone(self, arm: str, what: str, pid: int, keys: Sequence[str]) -> None:
        """Nothing is to be found: at once, else when garbage has been collected, which is then a line of its own."""
        found = self.note(arm, what, pid, keys, await scan(pid, keys))
        if found.windows:
            found, seconds = await scan_until_gone(pid, keys, within=WITHIN)
            self.note(f"{arm}, within {WITHIN:g} s", what, pid, keys, found)
            assert found.windows == 0, f"{found} after {seconds:.1f} s"

    def lines(self) -> Iterator[str]:
        """A table."""
        yield f"{'arm':<46} {'what':<60} {'processes':>9} {'lengths':>8} {'8-byte windows found':>21}"
        for (arm, what), line in self._lines.items():
            lengths, windows = (
                f"{min(each)}" if min(each) == max(each) else f"{min(each)}-{max(each)}"
                for each in (line.lengths, line.windows)
            )
            where = f"  {', '.join(sorted(line.where))}" if line.where else ""
            yield f"{arm:<46} {what:<60} {len(line.processes):>9} {lengths:>8} {windows:>21}{where}"


_ledger = Ledger()


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    return _ledger


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Elsewhere neither the protections nor the way to look for what they are to wipe are to be had."""
    if glibc_version() is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="zeroing freed memory is for Linux with glibc"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table, whatever is captured."""
    if lines := list(_ledger.lines())[1:]:
        terminalreporter.section("memory proof")
        terminalreporter.line(next(_ledger.lines()))
        for line in lines:
            terminalreporter.line(line)


@dataclass(frozen=True)
class Way:
    """How a process under test reaches Vault and Alpaca: by gates, over http or TLS."""

    name: str
    vault: Gate
    provider: Gate
    alpaca: AlpacaDouble
    environment: dict[str, str]


@pytest.fixture(scope="session")
async def ways(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Way]]:
    """`http` and `TLS`."""
    authority = CertificateAuthority(tmp_path_factory.mktemp("authority"))
    made: dict[str, Way] = {}
    async with AsyncExitStack() as opened:
        alpaca = await opened.enter_async_context(AlpacaDouble())
        for name in ("http", "TLS"):
            context = authority.server_context("gate", addresses=("127.0.0.1",)) if name == "TLS" else None
            vault = await opened.enter_async_context(Gate(stack.vault_addr, context))
            provider = await opened.enter_async_context(Gate(alpaca.url, context))
            environment = {**stack.local.environment(), "VAULT_ADDR": vault.url, "ALPACA_BASE_URL": provider.url}
            if context is not None:
                environment |= {
                    name: str(Path(authority.certificate_file)) for name in ("VAULT_CACERT", "SSL_CERT_FILE")
                }
            made[name] = Way(name, vault, provider, alpaca, environment)
        yield made


@pytest.fixture(params=["http", "TLS"])
def way(request: pytest.FixtureRequest, ways: dict[str, Way]) -> Way:
    """Each of the two."""
    return ways[request.param]
