"""What is compared with what, what is wanted of it, and the arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Measure = Literal["per_second", "p50_ms"]


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """One contender under one load: `callers` at once, each asking again as soon as it is answered.

    `cold`: each credential is opened once, by a process that has just (re)opened all it holds.
    """

    contender: str
    callers: int
    cold: bool = False

    @property
    def title(self) -> str:
        """As the tables call it."""
        return f"{self.contender} at {self.callers}{', cold' if self.cold else ''}"


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one series. `cpu_us`: microseconds of CPU for one open (or request), by process."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failures: int = 0
    cpu_us: Mapping[str, float] = field(default_factory=dict)


Rounds = Mapping[Series, Sequence[Round]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """`over` divided by the largest of `under` (`difference`: less it), and the bound it is meant to keep."""

    name: str
    meaning: str
    over: Series
    under: tuple[Series, ...]
    bound: float
    at_least: bool = True
    measure: Measure = "per_second"
    difference: bool = False

    @property
    def series(self) -> tuple[Series, ...]:
        """What has to be measured for it, side by side."""
        return (self.over, *self.under)

    @property
    def target(self) -> str:
        """The bound, in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"

    def is_met(self, value: float) -> bool:
        """Whether the bound is kept."""
        return value >= self.bound if self.at_least else value <= self.bound

    def value(self, rounds: Rounds) -> float:
        """From the medians of the rounds."""
        under = max(median(self._measured(rounds[series])) for series in self.under)
        return self._compared(median(self._measured(rounds[self.over])), under)

    def spread(self, rounds: Rounds) -> tuple[float, float]:
        """The least and the greatest of a single round."""
        each = [
            self._compared(over, max(under))
            for over, *under in zip(*(self._measured(rounds[series]) for series in self.series), strict=True)
        ]
        return min(each), max(each)

    def _compared(self, over: float, under: float) -> float:
        return over - under if self.difference else over / under

    def _measured(self, rounds: Sequence[Round]) -> list[float]:
        return [float(getattr(each, self.measure)) for each in rounds]


OURS, PLAIN, USUAL, ONE_BY_ONE, VAULT = "ours", "ours, not zeroed", "usual", "one by one", "Vault alone"
SMALL, LARGE = "ours, 1k rows", "ours, 1m rows"
SERVICE, BARE = "metadata GET", "bare route"
WORKER, KV = "KV writes of rewraps", "KV writes alone"
PROXIED, DIRECT, HANDED_OFF = "provider by proxy", "provider by httpx", "hand-off"
DENIED, COMMIT = "suspended, until the other replica denies", "the commit alone"

RATIOS = (
    Ratio(
        "open_256_vs_vault_single",
        "opens/s at 256 callers, to single decrypts/s of Vault alone (the better of 16 and 64 connections)",
        Series(OURS, 256),
        (Series(VAULT, 16), Series(VAULT, 64)),
        2.5,
    ),
    Ratio(
        "open_256_vs_usual", "the same, to the usual service's opens/s", Series(OURS, 256), (Series(USUAL, 256),), 30
    ),
    Ratio(
        "open_64_vs_usual",
        "opens/s at 64 callers, to the usual service's",
        Series(OURS, 64),
        (Series(USUAL, 64),),
        18,
    ),
    Ratio(
        "open_64_vs_async",
        "the same, to one-by-one async HTTP",
        Series(OURS, 64),
        (Series(ONE_BY_ONE, 64),),
        6,
    ),
    Ratio(
        "lone_open_p50_vs_usual",
        "p50 of a lone caller's open, to the usual service's",
        Series(OURS, 1),
        (Series(USUAL, 1),),
        0.5,
        at_least=False,
        measure="p50_ms",
    ),
    Ratio(
        "zeroing_throughput",
        "opens/s at 256 callers under the zeroing environment, to those without it",
        Series(OURS, 256),
        (Series(PLAIN, 256),),
        0.9,
    ),
    Ratio(
        "metadata_get_vs_bare_route",
        "GET /v1/credentials/{id} with its token, to a bare FastAPI route, requests/s at 64 connections",
        Series(SERVICE, 64),
        (Series(BARE, 64),),
        0.6,
    ),
    Ratio(
        "open_p50_1m_vs_1k",
        "p50 of a lone caller's open among 1,000,000 credentials, to the same among 1,000",
        Series(LARGE, 1),
        (Series(SMALL, 1),),
        1.1,
        at_least=False,
        measure="p50_ms",
    ),
    Ratio(
        "rewraps_vs_kv_writes",
        "KV writes/s of a rewrap (32 at once, two for each credential), to Vault's alone (the better of 32 and 64)",
        Series(WORKER, 32),
        (Series(KV, 32), Series(KV, 64)),
        0.8,
    ),
    Ratio(
        "proxy_p50_added_ms",
        "milliseconds that the proxy adds to the p50 of a lone caller's httpx call to a provider",
        Series(PROXIED, 1),
        (Series(DIRECT, 1),),
        2.0,
        at_least=False,
        measure="p50_ms",
        difference=True,
    ),
    Ratio(
        "suspension_ms",
        "p50 milliseconds from sending a suspension to the first denial at another replica, less a bare commit's",
        Series(DENIED, 1),
        (Series(COMMIT, 1),),
        10.0,
        at_least=False,
        measure="p50_ms",
        difference=True,
    ),
)

RSS = "rss_mb"
RSS_SERIES = Series(OURS, 256)
RSS_BOUND = 150.0
"""Megabytes (10^6 bytes) that one worker process may hold after its rounds at 256 callers."""

NAMES = (*(ratio.name for ratio in RATIOS), RSS)


def chosen(words: Sequence[str]) -> tuple[str, ...]:
    """The names that contain one of the words; all of them where there are no words. Keeps the order of `NAMES`.

    Raises:
        ValueError: a word that is in no name.
    """
    for word in words:
        if not any(word in name for name in NAMES):
            raise ValueError(f"no row is called {word}: there are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if not words or any(word in name for word in words))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of an ordered, non-empty sequence lies (the nearest rank)."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
