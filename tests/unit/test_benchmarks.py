"""The benchmarks' arithmetic, and what they write for programs. That they run at all is seen by `make bench`."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks.load_generator import Request, _quoted
from benchmarks.ratios import NAMES, OURS, RATIOS, RSS_SERIES, USUAL, VAULT, Ratio, Round, Series, chosen, quantile
from benchmarks.report import as_json, show
from benchmarks.stranger_timing import rank_sum
from benchmarks.suite import Plan, Results

FAST, SLOW, OTHER = Series("fast", 64), Series("slow", 64), Series("other", 64)


def rounds(*per_second: float, p50_ms: float = 1.0) -> list[Round]:
    return [Round(each, p50_ms, p50_ms * 3, cpu_us={"python": 1e6 / each}) for each in per_second]


def measured(plan: Plan) -> Results:
    """Results of a plan in which everything took as long as everything else, but ours twice as fast."""
    results = Results(plan, {"cpu": "a CPU"}, {"vault": _VAULT, "postgres": _POSTGRES}, "a generator")
    for group in plan.groups():
        for series in group:
            results.rounds[series] = rounds(200, 220, 180) if series.contender == OURS else rounds(100, 100, 100)
    results.rss_mb = {"worker at 256 callers": 99.96}
    return results


def shown(results: Results) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    show(results, console)
    return console.export_text()


_VAULT = {"version": "1", "storage": "raft", "audit": ["file"]}
_POSTGRES = {"version": "18", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


def test_the_names_are_those_that_were_agreed_in_their_order() -> None:
    assert NAMES == (
        "open_256_vs_vault_single",
        "open_256_vs_usual",
        "open_64_vs_usual",
        "open_64_vs_async",
        "lone_open_p50_vs_usual",
        "zeroing_throughput",
        "metadata_get_vs_bare_route",
        "open_p50_1m_vs_1k",
        "rewraps_vs_kv_writes",
        "proxy_p50_added_ms",
        "suspension_ms",
        "rss_mb",
    )


def test_a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds() -> None:
    ratio = Ratio("x", "", FAST, (SLOW,), 2.5)
    taken = {FAST: rounds(30, 300, 60), SLOW: rounds(10, 20, 15)}
    assert ratio.value(taken) == 60 / 15
    assert ratio.spread(taken) == (30 / 10, 300 / 20)


def test_the_best_of_several_is_what_one_is_compared_with() -> None:
    ratio = Ratio("x", "", FAST, (SLOW, OTHER), 2.5)
    taken = {FAST: rounds(100, 100), SLOW: rounds(10, 50), OTHER: rounds(40, 20)}
    assert ratio.value(taken) == 100 / 30
    assert ratio.spread(taken) == (100 / 50, 100 / 40)


def test_a_latency_is_compared_by_p50_and_has_to_stay_below() -> None:
    ratio = Ratio("x", "", FAST, (SLOW,), 0.5, at_least=False, measure="p50_ms")
    value = ratio.value({FAST: rounds(1, p50_ms=2.0), SLOW: rounds(1000, p50_ms=8.0)})
    assert value == 0.25
    assert (ratio.is_met(value), ratio.is_met(0.51)) == (True, False)
    assert (replace(ratio, at_least=True).is_met(0.49), replace(ratio, at_least=True).is_met(0.5)) == (False, True)


@pytest.mark.parametrize(("share", "found"), [(0.5, 50), (0.99, 99), (1.0, 99), (0.0, 0)])
def test_a_quantile_is_one_of_the_values(share: float, found: int) -> None:
    assert quantile(range(100), share) == found
    assert quantile([7.0], share) == 7.0


def test_rows_are_chosen_by_parts_of_their_names() -> None:
    assert chosen([]) == NAMES
    assert chosen(["open_64", "rss"]) == ("open_64_vs_usual", "open_64_vs_async", "rss_mb")
    with pytest.raises(ValueError, match="no row is called open_65"):
        chosen(["open_65"])


def test_what_a_ratio_compares_is_measured_in_one_group() -> None:
    groups = Plan(names=NAMES).groups()
    for ratio in RATIOS:
        assert any(set(ratio.series) <= set(group) for group in groups), ratio.name
    assert len({series for group in groups for series in group}) == sum(map(len, groups))


def test_one_row_measures_nothing_else() -> None:
    (group,) = Plan(names=("open_256_vs_vault_single",)).groups()
    assert group == [Series(OURS, 256), Series(VAULT, 16), Series(VAULT, 64)]
    assert Plan(names=("rss_mb",)).groups() == [[RSS_SERIES]]


def test_the_json_has_each_ratio_with_its_target_and_every_round() -> None:
    said = json.loads(json.dumps(as_json(measured(Plan(names=NAMES)))))
    assert tuple(said["ratios"]) == NAMES
    assert said["ratios"]["open_256_vs_usual"] == 2.0
    assert said["spread"]["open_256_vs_usual"] == [1.8, 2.2]
    assert said["targets"]["open_256_vs_usual"] == {"at_least": 30}
    assert said["targets"]["lone_open_p50_vs_usual"] == {"at_most": 0.5}
    assert said["ratios"]["rss_mb"] == 100.0
    assert (said["met"]["rss_mb"], said["met"]["open_256_vs_usual"]) == (True, False)
    usual = next(each for each in said["series"] if (each["contender"], each["callers"]) == (USUAL, 256))
    assert [each["per_second"] for each in usual["rounds"]] == [100, 100, 100]
    assert usual["median"]["cpu_us_python"] == 10_000
    assert said["machine"] == {"cpu": "a CPU"}


def test_the_table_says_what_was_missed_and_what_failed() -> None:
    results = measured(Plan(names=("open_256_vs_usual", "zeroing_throughput", "rss_mb")))
    series = Series(USUAL, 256)
    results.rounds[series] = [replace(each, failures=3) for each in results.rounds[series]]
    results.first_failures = {USUAL: "TimeoutError"}
    text = shown(results)
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("│ ")}
    assert "missed" in rows["open_256_vs_usual"]
    assert "reached" in rows["zeroing_throughput"]
    assert "reached" in rows["rss_mb"]
    assert "usual: opens failed, the first with TimeoutError" in text
    assert "fsync on, synchronous_commit on" in text


def test_a_request_is_written_out_once_for_all_with_its_length_in_bytes() -> None:
    request = Request("POST", "/v1/x", {"X-Vault-Token": "t"}, "é")
    assert request.wire("127.0.0.1:1") == (
        "POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX-Vault-Token: t\r\nContent-Length: 2\r\n\r\né"
    )


def test_a_request_keeps_its_line_ends_in_wrks_script() -> None:
    assert _quoted('a\r\n"b\\') == '"a\\r\\n\\"b\\\\"'


def test_a_process_without_figures_is_an_empty_cell() -> None:
    results = measured(Plan(names=("rss_mb",)))
    results.rounds[RSS_SERIES] = [Round(1.0, 1.0, 1.0, cpu_us={"python": math.nan})]
    text = shown(results)
    assert "ours" in text
    assert "nan" not in text


def test_the_rank_sum_test_tells_a_shift_and_not_chance() -> None:
    """Of values worked out by hand, and with ties."""
    before, p = rank_sum([1, 2, 3], [4, 5, 6])
    assert before == 0.0
    assert 0.0490 < p < 0.0500
    assert rank_sum([1, 1, 2, 2], [1, 2, 1, 2]) == (0.5, 1.0)
    assert rank_sum([7.0] * 5, [7.0] * 5) == (0.5, 1.0)
    numbers = [((each * 7919) % 1009) / 1009 for each in range(1000)]
    assert rank_sum(numbers[::2], numbers[1::2])[1] > 0.05
    assert rank_sum([each + 0.2 for each in numbers[::2]], numbers[1::2])[1] < 1e-6
