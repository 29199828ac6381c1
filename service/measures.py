"""Counts and durations of what a process does, kept so that keeping them costs next to nothing.

Not prometheus_client's own counters and histograms: these take a lock for each number, and a histogram two of them and
a walk through its buckets, which is four times what one costs here, on the path of each opening. What is here belongs
to one event loop. `runtime_metrics.py` hands it to prometheus_client, which writes Prometheus' text.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from time import perf_counter

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

MOST_SERIES = 2000
"""What a counter or a histogram keeps apart. Many times what the code has; were a mistake to let somebody's text into a
label, then what comes later would be counted together, as `other`."""

Labels = tuple[str, ...]
"""Values of labels, in the order of their names. Each is one of a set that the code or the settings fix: never a
user's name, an id, or anything else that a caller sent."""

BatchMeter = Callable[[int, float], None]
"""Told of each batch: how many calls are in it, and for how many seconds the first of them has waited."""


class Tally:
    """A counter for each set of labels, for `MOST_SERIES` of them."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[Labels, int] = {}

    def add(self, labels: Labels, count: int = 1) -> None:
        """Counts."""
        counted = self.counts.get(labels)
        if counted is None:
            labels = _bounded(labels, len(self.counts))
            counted = self.counts.get(labels, 0)
        self.counts[labels] = counted + count


class Spread:
    """How values are spread over buckets, for each set of labels (`MOST_SERIES` of them): Prometheus' histogram."""

    __slots__ = ("bounds", "kept")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: each bucket's greatest value, from the least on; one more takes what is above them all."""
        self.bounds = tuple(bounds)
        self.kept: dict[Labels, tuple[list[int], list[float]]] = {}
        """Of each: the buckets' counts, not added up, and a list of one, the sum."""

    def note(self, labels: Labels, value: float) -> None:
        """Takes a value in."""
        kept = self.kept.get(labels)
        if kept is None:
            kept = self.kept.setdefault(_bounded(labels, len(self.kept)), ([0] * (len(self.bounds) + 1), [0.0]))
        kept[0][bisect_left(self.bounds, value)] += 1
        kept[1][0] += value


def _bounded(labels: Labels, count: int) -> Labels:
    return labels if count < MOST_SERIES else ("other",) * len(labels)


class Measures:
    """What a process counts, all of it: `runtime_metrics.py` says what each is called outside."""

    def __init__(self) -> None:
        self.uses = Tally()  # action, outcome, reason
        self.batch_items = Spread(ITEMS)  # batch
        self.batch_waits = Spread(SECONDS)  # batch
        self.vault = Spread(SECONDS)  # operation
        self.vault_failures = Tally()  # operation, error
        self.postgres = Spread(SECONDS)  # statement
        self.postgres_failures = Tally()
        self.proxy_calls = Tally()  # provider, outcome
        self.providers = Spread(SECONDS)  # provider
        self.reconciliations = Tally()  # outcome

    def batches(self, kind: str) -> BatchMeter:
        """A meter for batches of this kind, or of a queue whose batches are of one."""
        labels = (kind,)
        items, waits = self.batch_items, self.batch_waits

        def meter(count: int, waited: float) -> None:
            items.note(labels, count)
            waits.note(labels, waited)

        return meter

    def vault_answered(self, operation: str, began: float, error: str | None) -> None:
        """One request to Vault has ended, which began at `time.perf_counter()`'s `began`."""
        self.vault.note((operation,), perf_counter() - began)
        if error is not None:
            self.vault_failures.add((operation, error))

    def statement_ended(self, statement: str, began: float) -> None:
        """One statement has ended, the wait for a connection included."""
        self.postgres.note((statement,), perf_counter() - began)
