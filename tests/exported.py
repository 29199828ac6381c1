"""What a service tells at `/metrics`, for tests: by name and labels."""

from collections.abc import Iterator

import httpx
from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, frozenset[tuple[str, str]]]


class Exported:
    """The text of one scrape, read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """A sample's; 0 where there is none."""
        return self._values.get((name, frozenset(labels.items())), 0.0)

    def has(self, name: str) -> bool:
        """Whether there is any sample of this name."""
        return any(each == name for each, _ in self._values)

    @property
    def series(self) -> set[Series]:
        """Each sample's name and labels."""
        return set(self._values)

    @property
    def names(self) -> set[str]:
        """Each name that a query may ask for, of families without samples too."""
        told = {name for name, _ in self._values}
        for family in self.families.values():
            told |= {f"{family.name}_total"} if family.type == "counter" else {family.name}
            if family.type == "histogram":
                told |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
        return told

    @property
    def told(self) -> set[str]:
        """Each family, by the name that documentation has for it."""
        ends = {"counter": "_total", "info": "_info"}
        return {
            family.name.removesuffix(end) + end
            for family in self.families.values()
            for end in [ends.get(family.type, "")]
        }

    def label_values(self) -> Iterator[tuple[str, str, str]]:
        """Each label of each sample: the sample's name, the label's, and its value."""
        for name, labels in self._values:
            for label, value in labels:
                yield name, label, value


async def scraped(client: httpx.AsyncClient) -> Exported:
    """Asks for the metrics."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return Exported(answer.text)
