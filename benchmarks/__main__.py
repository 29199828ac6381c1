"""`python -m benchmarks`, which `make bench` runs."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import ratios
from benchmarks.contender_process import BenchmarkFailed
from benchmarks.report import as_json, show
from benchmarks.suite import Plan
from benchmarks.suite import run as run_suite
from benchmarks.testbed import WrongTerms
from service.errors import CredentialsError


def main(
    rows: Annotated[
        str, typer.Option(help="Rows to measure, by parts of their names, with commas; all if empty.")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything to this file too.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="Seconds of a round.")] = 3.0,
    warm_up: Annotated[float, typer.Option(min=0.0, help="Seconds before it counts, in each round.")] = 1.0,
    credentials: Annotated[int, typer.Option(min=100, help="Credentials that are stored.")] = 10_000,
    many: Annotated[int, typer.Option(min=1000, help="Rows of the larger database of open_p50_1m_vs_1k.")] = 1_000_000,
    profile: Annotated[
        bool, typer.Option("--profile", help="Run ours under cProfile and print it. Its figures are not for showing.")
    ] = False,
) -> None:
    """Measures opening a credential side by side with the alternatives, on a Vault and a Postgres of its own.

    BENCH_KV=all writes a ciphertext for each of the larger database's rows (a million: half an hour), not only for
    those that are opened.
    """
    words = [word for word in rows.replace(",", " ").split() if word]
    try:
        names = ratios.chosen(words)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rows") from None
    plan = Plan(
        names=names,
        rounds=rounds,
        seconds=seconds,
        warm_up=warm_up,
        credentials=credentials,
        many=many,
        write_all=os.environ.get("BENCH_KV") == "all",
        profile=profile,
    )
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.default_int_handler)  # so that the stack is stopped and its folder removed
    try:
        results = run_suite(plan, lambda line: print(line, file=sys.stderr, flush=True))
    except (BenchmarkFailed, WrongTerms, CredentialsError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    # Piped into a file, a table keeps its shape at whatever width it needs.
    show(results, Console(width=None if sys.stdout.isatty() else 150))
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(results), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
