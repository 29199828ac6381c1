"""`/metrics`: what a Prometheus server reads."""

from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.measures import MOST_SERIES, Spread, Tally
from tests.unit.fake_runtime import Part, client_of


async def test_metrics_say_what_is_in_force_here() -> None:
    async with client_of(Part()) as client:
        answer = await client.get("/metrics")
        head = await client.head("/metrics")
    assert (answer.status_code, head.status_code, head.content) == (200, 200, b"")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = {
        sample.name: sample for family in text_string_to_metric_families(answer.text) for sample in family.samples
    }
    # The tests run without any of it, and nothing else may be claimed.
    assert samples["credentials_zeroing_info"].labels["mode"] == "none"
    assert samples["credentials_zeroing_info"].labels["pymalloc_off"] == "false"
    assert {"credentials_secret_memory_bytes", "credentials_secret_memory_locked_bytes"} <= samples.keys()
    assert not any("collections" in name for name in samples)  # no collector runs in a program that embeds this


def test_two_applications_share_no_metrics() -> None:
    assert create_app().state.metrics is not create_app().state.metrics


def test_a_label_that_anybody_could_choose_would_still_fill_no_memory() -> None:
    tally, spread = Tally(), Spread((1.0,))
    for at in range(3 * MOST_SERIES):
        tally.add((f"x{at}", "word"))
        spread.note((f"x{at}",), 0.5)
    assert len(tally.counts) == len(spread.kept) == MOST_SERIES + 1
    assert tally.counts["other", "other"] == spread.kept["other",][0][0] == 2 * MOST_SERIES
    tally.add(("x0", "word"))
    assert tally.counts["x0", "word"] == 2
