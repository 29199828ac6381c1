"""`vault-credentials events`: whether the recorded events are those that were sealed."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.errors import InvalidInput

if TYPE_CHECKING:
    from service.modules.event_chain import SealMark
    from service.modules.event_verifier import VerificationReport

app = typer.Typer(no_args_is_help=True)
_MARK = re.compile(r"([1-9][0-9]{0,17}):([0-9a-fA-F]{64})")


@app.callback()
def events() -> None:
    """Checks the record of what was done: who opened, stored, changed and rotated what."""


@app.command()
def verify(
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER:SHA256", help="A seal noted earlier (the last line says it) that has to be there."
        ),
    ] = None,
) -> None:
    """Says what was removed, altered or put in since it was sealed. Exit status 1 if anything was.

    Every few seconds a worker hashes the new events together with the seal before, and has Vault sign that. This reads
    all of it again, and compares it with Vault's public keys and with the newest seal that is noted in Vault. What has
    not been sealed yet is counted and not checked.

    It takes a login to Postgres that may become credentials_auditor (DATABASE_URL), and a Vault token that may read the
    signing key and that note: the service's own, or one of the auditor's policy in a file, with
    CREDENTIALS_VAULT_LOGIN=token_file and CREDENTIALS_VAULT_TOKEN_FILE.
    """
    import asyncio
    import json

    from service.composition import event_verifier
    from service.observability import configure_logging
    from service.settings import load_settings

    expected = None if expect is None else _mark(expect)
    settings = load_settings()
    configure_logging("WARNING")

    async def work() -> "VerificationReport":
        from rich.console import Console
        from rich.progress import Progress, TimeElapsedColumn

        from service.modules.event_verifier import Progress as Verified

        console = Console(stderr=True)
        columns = (*Progress.get_default_columns(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("verifying", total=None)

            def shown(now: Verified) -> None:
                bar.update(task, completed=now.seals, total=now.of_seals, description=f"verifying, {now.events} events")

            async with event_verifier(settings) as verifier:
                return await verifier.verify(expected, shown)

    report = asyncio.run(work())
    typer.echo(json.dumps(_as_json(report), indent=2) if as_json else _as_text(report))
    if report.problems:
        raise typer.Exit(1)


def _mark(text: str) -> "SealMark":
    from service.modules.event_chain import SealMark

    match = _MARK.fullmatch(text)
    if match is None:
        raise InvalidInput("--expect", "must be a seal's number, a colon and its SHA-256 in hex")
    return SealMark(int(match[1]), bytes.fromhex(match[2]))


def _as_json(report: "VerificationReport") -> dict[str, Any]:
    unsealed = report.unsealed
    return {
        "verified": report.problems == 0,
        "installation_id": None if report.installation_id is None else str(report.installation_id),
        "seals": report.seals,
        "events": report.events,
        "late": {"events": report.late, "first_seal": report.late_seal},
        "newest_seal": None if report.newest is None else str(report.newest),
        "sealed_until": _time(report.sealed_until),
        "anchored_seal": None if report.anchor is None else str(report.anchor),
        "unsealed": None
        if report.unread
        else {
            "events": unsealed.events,
            "since": _time(unsealed.since),
            "held": unsealed.held,
            "held_since_before": _time(unsealed.held_since),
            "of_another_cluster": unsealed.foreign,
        },
        "problems": report.problems,
        "findings": [
            {"problem": each.problem, "seal": each.seal, "after": _time(each.since), "until": _time(each.until)}
            for each in report.findings
        ],
    }


def _as_text(report: "VerificationReport") -> str:
    lines = []
    for each in report.findings:
        where = "" if each.seal is None else f"seal {each.seal}"
        if each.until is not None:
            where += f" (sealed {_time(each.until)}, the one before {_time(each.since) or 'never'})"
        lines.append(f"WRONG: {where}: {each.problem}" if where else f"WRONG: {each.problem}")
    if report.problems > len(report.findings):
        lines.append(f"WRONG: and {report.problems - len(report.findings)} more")
    if report.unread:
        lines.append("no event was looked at: such tables could show anything")
        return "\n".join(lines)
    lines.append(f"{_count(report.events, 'event')} under {_count(report.seals, 'seal')}: " + _verdict(report))
    lines += _late(report)
    lines += _unsealed(report)
    if report.newest is not None:
        lines.append(f"newest seal, of {_time(report.sealed_until)}: {report.newest}")
    return "\n".join(lines)


def _verdict(report: "VerificationReport") -> str:
    return "as they were sealed" if not report.problems else f"{_count(report.problems, 'problem')} found"


def _late(report: "VerificationReport") -> list[str]:
    if not report.late:
        return []
    return [
        f"{_count(report.late, 'event')} recorded late: older than the seal before theirs, the first under seal "
        f"{report.late_seal} (transactions that took long, many events at once, or put in with an earlier time)"
    ]


def _unsealed(report: "VerificationReport") -> list[str]:
    tail = report.unsealed
    if not tail.events:
        return ["every event is sealed"]
    lines = [f"{_count(tail.events, 'event')} not sealed yet, the first of {_time(tail.since)}"]
    if tail.held:
        lines.append(f"  {tail.held} of them wait for a transaction that began before {_time(tail.held_since)} to end")
    if tail.foreign:
        lines.append(f"  {tail.foreign} of them are of another database cluster's transactions")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _time(at: Any) -> str | None:
    return None if at is None else at.isoformat()
