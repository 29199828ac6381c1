"""What an import shows: how far it is, each row that somebody has to look at, the report at the end."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from service.modules.import_records import Became, ImportReport, Mode, RowResult, Source

_LINE_SECONDS = 10.0
_WORDS = {
    Became.IMPORTED: "imported",
    Became.PRESENT: "already here, and the same",
    Became.VALID: "would be imported",
    Became.WIPED: "imported and wiped in the source before",
    Became.DIFFERS: "here, but different",
    Became.DELETED: "deleted here, not stored again",
    Became.MISSING: "not here",
    Became.REFUSED: "refused",
    Became.FAILED: "failed",
}


@contextmanager
def import_progress(console: Console, source: Source) -> Iterator[Callable[[ImportReport], None]]:
    """A bar where somebody looks at it, a line every ten seconds where nobody does."""
    if not console.is_terminal:
        yield _lines(console, source)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("import", total=None, told="")

        def shown(report: ImportReport) -> None:
            bar.update(task, total=source.total or None, completed=source.position, told=_so_far(report))

        yield shown


def _lines(console: Console, source: Source) -> Callable[[ImportReport], None]:
    said_at = time.monotonic()

    def shown(report: ImportReport) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _LINE_SECONDS:
            said_at = time.monotonic()
            share = f"{100 * source.position // source.total} % read, " if source.total else ""
            console.print(f"{report.mode.value}: {share}{_so_far(report)}", markup=False, highlight=False)

    return shown


def _so_far(report: ImportReport) -> str:
    told = f"{report.rows} rows, {report.rows / max(report.seconds, 0.001):.0f}/s"
    if report.needs_a_look:
        told += f", {report.needs_a_look} to look at"
    return told if report.trouble is None else f"{told}; waiting: {report.trouble}"


def row_line(result: RowResult) -> str:
    """A row's result for people."""
    told = f"{result.where}: {result.became.value}"
    if result.credential_id is not None:
        told += f" ({result.credential_id})"
    return told if result.problem is None else f"{told}: {result.problem}"


def row_json(result: RowResult) -> str:
    """The same for programs, in one line."""
    return json.dumps(
        {
            "row": result.where,
            "became": result.became.value,
            "problem": result.problem,
            "credential_id": None if result.credential_id is None else str(result.credential_id),
        }
    )


def report_lines(report: ImportReport) -> list[str]:
    """The report for people."""
    words = _WORDS | ({Became.PRESENT: "already here, keys not compared"} if report.mode is Mode.DRY_RUN else {})
    lines = [f"{words[each]:<40}{count:>9}" for each, count in report.counts.items() if count]
    if report.wiped_now:
        lines.append(f"{'of these wiped in the source':<40}{report.wiped_now:>9}")
    rate = f", {report.rows / report.seconds:.0f}/s" if report.rows else ""
    lines.append(f"{report.rows} row{'' if report.rows == 1 else 's'} in {report.seconds:.1f} s{rate}")
    if report.mode is Mode.DRY_RUN:
        lines.append("This was a dry run: nothing was stored or opened.")
    return lines


def report_json(report: ImportReport, run_id: str) -> str:
    """The report for programs, in one line: the last one."""
    document: dict[str, Any] = {
        "mode": report.mode.value,
        "rows": report.rows,
        **{each.value: count for each, count in report.counts.items()},
        "wiped_now": report.wiped_now,
        "seconds": round(report.seconds, 3),
        "complete": report.is_complete,
        "stopped_by": None if report.stopped_by is None else str(report.stopped_by),
        "run": run_id,
    }
    return json.dumps({"report": document})
