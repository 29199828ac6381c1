"""The results as a table for people and as JSON for programs."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.ratios import RSS, RSS_BOUND, Round
from benchmarks.suite import Results

_PROCESSES = ("python", "vault", "postgres", "generator", "all")


def as_json(results: Results) -> dict[str, Any]:
    """`ratios` by name, `targets`, `met` and `spread` likewise, every round, and what it was measured on."""
    ratios, targets, met, spread = {}, {}, {}, {}
    for ratio in results.plan.ratios:
        value = ratio.value(results.rounds)
        ratios[ratio.name] = round(value, 4)
        targets[ratio.name] = {"at_least" if ratio.at_least else "at_most": ratio.bound}
        met[ratio.name] = ratio.is_met(value)
        spread[ratio.name] = [round(each, 4) for each in ratio.spread(results.rounds)]
    if RSS in results.plan.names:
        value = next(iter(results.rss_mb.values()))
        ratios[RSS] = round(value, 1)
        targets[RSS] = {"at_most": RSS_BOUND}
        met[RSS] = value <= RSS_BOUND
    return {
        "ratios": ratios,
        "targets": targets,
        "met": met,
        "spread": spread,
        "machine": results.machine,
        "servers": results.servers,
        "load_generator": results.generator,
        "zeroing": results.zeroing,
        "rss_mb": {name: round(value, 1) for name, value in results.rss_mb.items()},
        "first_failures": results.first_failures,
        "facts": results.facts,
        "plan": {name: value for name, value in asdict(results.plan).items() if name != "names"},
        "series": [
            {
                "contender": series.contender,
                "callers": series.callers,
                "cold": series.cold,
                "median": _medians(rounds),
                "rounds": [asdict(each) for each in rounds],
            }
            for series, rounds in results.rounds.items()
        ],
    }


def show(results: Results, console: Console) -> None:
    """Prints the tables."""
    said = as_json(results)
    console.print(_conditions(results), markup=False, highlight=False)
    table = Table("", "median", "rounds", "wanted", "", title="Ratios, side by side in one run")
    for ratio in results.plan.ratios:
        low, high = said["spread"][ratio.name]
        table.add_row(
            f"{ratio.name}\n[dim]{ratio.meaning}[/dim]",
            f"{said['ratios'][ratio.name]:.2f}",
            f"{low:.2f} to {high:.2f}",
            ratio.target,
            _verdict(said["met"][ratio.name]),
        )
    if RSS in said["ratios"]:
        table.add_row(
            f"{RSS}\n[dim]megabytes of one worker process after its rounds at 256 callers[/dim]",
            f"{said['ratios'][RSS]:.0f}",
            "",
            f"at most {RSS_BOUND:g}",
            _verdict(said["met"][RSS]),
        )
    console.print(table)
    console.print(_series(results))
    for name, value in said["rss_mb"].items():
        console.print(f"memory: {name}: {value:.0f} MB")
    if "streams_cut_ms" in results.facts:
        console.print(
            f"streams at the other replica ended {results.facts['streams_cut_ms']:.0f} ms after a suspension's"
            f" answer (median of {results.facts['streams_cut']}); hand-offs that are out last until their time is up"
        )
    for name, failure in results.first_failures.items():
        console.print(f"[bold]{name}: opens failed, the first with {failure}[/bold]")


def _series(results: Results) -> Table:
    table = Table("callers", "contender", title="Medians of the rounds; CPU in microseconds for each open or request")
    for name in ("per second", "p50 ms", "p99 ms", *(f"CPU {name}" for name in _PROCESSES), "failed"):
        table.add_column(name, justify="right")
    for series, rounds in results.rounds.items():
        medians = _medians(rounds)
        table.add_row(
            str(series.callers),
            f"{series.contender}{', cold' if series.cold else ''}",
            f"{medians['per_second']:,.0f}",
            f"{medians['p50_ms']:.2f}",
            f"{medians['p99_ms']:.2f}",
            *(_cell(medians.get(f"cpu_us_{name}")) for name in _PROCESSES),
            str(sum(each.failures for each in rounds)),
        )
    return table


def _medians(rounds: Sequence[Round]) -> dict[str, float]:
    measured = {name: median(getattr(each, name) for each in rounds) for name in ("per_second", "p50_ms", "p99_ms")}
    for name in rounds[0].cpu_us:
        measured[f"cpu_us_{name}"] = median(each.cpu_us.get(name, math.nan) for each in rounds)
    measured["cpu_us_all"] = median(sum(each.cpu_us.values()) for each in rounds)
    return {name: round(value, 3) for name, value in measured.items()}


def _conditions(results: Results) -> str:
    plan, vault, postgres = results.plan, results.servers["vault"], results.servers["postgres"]
    lines = [
        " · ".join(f"{name} {value}" for name, value in results.machine.items()),
        f"Vault {vault['version']}: storage {vault['storage']}, audit device {', '.join(vault['audit'])}",
        f"Postgres {postgres['version']}: fsync {postgres['fsync']}, "
        f"synchronous_commit {postgres['synchronous_commit']}, full_page_writes {postgres['full_page_writes']}",
        f"{plan.credentials:,} credentials; {plan.rounds} rounds of {plan.seconds:g} s each, after {plan.warm_up:g} s",
        *(f"zeroing in {name}: {line}" for name, line in results.zeroing.items()),
    ]
    if results.generator:
        lines.append(f"load generator: {results.generator}")
    if results.ciphertexts:
        lines.append(
            f"1k and 1m rows: {plan.few:,} and {plan.many:,} rows, each with an event; "
            f"{results.ciphertexts:,} credentials of each are opened"
            + ("" if plan.write_all else ", and those alone are in KV (BENCH_KV=all writes all)")
        )
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.0f}"


def _verdict(is_met: bool) -> str:
    return "reached" if is_met else "[bold]missed[/bold]"
