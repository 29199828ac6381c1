"""Counts and durations as the families that prometheus_client writes as Prometheus' text."""

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from service.measures import Labels, Spread, Tally


def counter(name: str, text: str, labels: Sequence[str], tally: Tally) -> CounterMetricFamily:
    """A tally's family; `_total` comes behind its name."""
    return counted(name, text, labels, tally.counts.items())


def counted(name: str, text: str, labels: Sequence[str], counts: Iterable[tuple[Labels, float]]) -> CounterMetricFamily:
    """A counter's family."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in sorted(counts):
        family.add_metric(values, count)
    return family


def gauge(
    name: str, text: str, values: Iterable[tuple[Labels, float | None]], labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    """A gauge's family; what is None is left out."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for each, value in values:
        if value is not None:
            family.add_metric(each, value)
    return family


def histogram(name: str, text: str, labels: Sequence[str], spread: Spread) -> HistogramMetricFamily:
    """A spread's family."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, (counts, total) in sorted(spread.kept.items()):
        below, buckets = 0, []
        for bound, count in zip((*spread.bounds, float("inf")), counts, strict=True):
            below += count
            buckets.append((repr(float(bound)).replace("inf", "+Inf"), float(below)))
        family.add_metric(values, buckets, total[0])
    return family
