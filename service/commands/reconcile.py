"""`vault-credentials reconcile`: what a crash left between Vault and Postgres, or a restore of one of them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import ConfigurationError, CredentialUnreadable

if TYPE_CHECKING:
    from rich.console import Console

    from service.composition import Runtime
    from service.modules.key_ports import KeyRing
    from service.modules.skew_mending import Diagnosis
    from service.modules.skew_records import Examined, SkewReport
    from service.settings import Settings

_ACTOR = "reconcile"
_AT_ONCE = 16
_TAMPERED = "its row was changed by hand to lead elsewhere: nothing is done about it here"
_NEEDS_KEYS = "set the rotator's logins, as a worker has them, to have this found out: CREDENTIALS_ROTATOR_…"
_CHANGED = "it was changed meanwhile: look again"

Row = tuple[str, str, str]


def reconcile(
    apply: Annotated[bool, typer.Option("--apply", help="Mend what is found.")] = False,
    scan: Annotated[bool, typer.Option("--scan", help="Compare all of KV with all rows as well.")] = False,
    skew: Annotated[
        bool,
        typer.Option("--skew", help="After a restore of Vault or of Postgres: compare all rows with Vault, first."),
    ] = False,
) -> None:
    """Mends what a crash left between Vault and Postgres. Settings are from the environment.

    Without --apply it is a dry run: it counts what is due and changes nothing.

    Each write to Vault is noted in Postgres before it is made; what is noted and never finished is DUE after some time.
    With --apply each of these is settled: its ciphertext is REMOVED, or KEPT because the credential uses it after all,
    or it is HELD BY A WRITER, which is still at work on it, and is left for the next time.

    With --skew it says of each credential that doesn't fit what Vault has of it what to do; with --apply too, it pins
    those anew whose secret, or a newer one, Vault proves to have. That takes the rotator's logins too
    (CREDENTIALS_ROTATOR_…), and decrypts nothing. Exit status 1 where something is left that somebody has to do.
    """
    import asyncio
    from dataclasses import asdict

    from rich.console import Console

    from service.composition import Runtime
    from service.observability import configure_logging
    from service.settings import load_settings

    settings = load_settings()
    configure_logging("WARNING")
    console = Console()
    if skew and apply and settings.as_rotator() is None:
        raise ConfigurationError(f"CREDENTIALS_ROTATOR_DATABASE_URL: is not set; {_NEEDS_KEYS}")

    async def work() -> tuple[Mapping[str, object], bool]:
        left = False
        async with Runtime.open(settings) as runtime:
            if skew:
                left = await _mend_skew(runtime, settings, console, apply=apply)
            found = asdict(await runtime.reconciler.run(apply=apply))
            if scan:
                found |= asdict(await runtime.reconciler.scan(apply=apply))
        return found, left

    found, left = asyncio.run(work())
    _show_table(
        console,
        "applied" if apply else "dry run: nothing was changed",
        ("what", "found"),
        ((name.replace("_", " "), _listed(value)) for name, value in found.items()),
    )
    if left:
        raise typer.Exit(1)


async def _mend_skew(runtime: "Runtime", settings: "Settings", console: "Console", *, apply: bool) -> bool:
    """Finds what doesn't fit, mends what can be mended where that is wanted, and shows it. Whether anything is left."""
    from contextlib import AsyncExitStack

    from service.composition import key_ring

    async with AsyncExitStack() as stack:
        with console.status("comparing …") as status:
            report = await runtime.skew.full(progress=lambda seen: status.update(f"compared {seen} credentials"))
            keys = None
            if report.credentials and settings.as_rotator() is not None:
                keys = await stack.enter_async_context(key_ring(settings))
            rows, left = await _treat_all(runtime, report, keys, apply=apply)
    _show_table(
        console,
        f"Vault against Postgres: {report.examined} credentials compared, {len(report.credentials)} don't fit",
        ("credential", "what is wrong", "what to do" if not apply else "what was done, or is to do"),
        [*rows, *_whole(report)],
    )
    return left or bool(report.keys or report.seals)


async def _treat_all(
    runtime: "Runtime", report: "SkewReport", keys: "KeyRing | None", *, apply: bool
) -> tuple[list[Row], bool]:
    import asyncio

    limit, left = asyncio.Semaphore(_AT_ONCE), False

    async def one(examined: "Examined") -> Row:
        nonlocal left
        async with limit:
            told, is_done = await _treat(runtime, examined, keys, apply=apply)
        left = left or (examined.matters and not is_done)
        return str(examined.credential.id), examined.meaning, told

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(each)) for each in report.credentials]
    return [task.result() for task in tasks], left


async def _treat(runtime: "Runtime", examined: "Examined", keys: "KeyRing | None", *, apply: bool) -> tuple[str, bool]:
    """What to do about a credential, or what was done, in words; and whether nothing is left to do."""
    from service.modules.skew_mending import Remedy

    if keys is None:
        return _NEEDS_KEYS, False
    try:
        diagnosis = await runtime.skew_mender.diagnose(examined, keys)
    except CredentialUnreadable:
        return _TAMPERED, False
    if not diagnosis.can_be_mended:
        return diagnosis.remedy.meaning, diagnosis.remedy is Remedy.NONE_NEEDED
    if not apply:
        return f"--apply: {_told(diagnosis)}", False
    if not await runtime.skew_mender.mend(diagnosis, actor=_ACTOR):
        return _CHANGED, False
    return f"done: {_told(diagnosis)}", diagnosis.remedy in (Remedy.REPIN, Remedy.ANNOTATE)


def _told(diagnosis: "Diagnosis") -> str:
    repin = diagnosis.repin
    if repin is None or repin.kv_version == diagnosis.credential.reference.kv_version:
        return diagnosis.remedy.meaning
    return f"{diagnosis.remedy.meaning} (KV version {repin.kv_version}, secret version {repin.secret_version})"


def _whole(report: "SkewReport") -> Iterator[Row]:
    """What concerns no single credential."""
    from service.modules.skew_records import SEALS, SEALS_REMEDY

    for key in report.keys:
        yield "", key.meaning, "a key that is behind is an older Vault's"
    if report.seals is not None:
        yield "", SEALS[report.seals], SEALS_REMEDY


def _listed(value: object) -> str:
    return "\n".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def _show_table(console: "Console", title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table(*(Column(name, overflow="fold") for name in columns), title=title)
    for row in rows:
        # Names in KV are whatever somebody called them: neither markup nor commands to a terminal.
        table.add_row(*(escape(_plain(cell)) for cell in row))
    console.print(table)
