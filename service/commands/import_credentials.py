"""`vault-credentials import`: credentials that are kept somewhere else, stored here once each and read back."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import AuthenticationFailed, ConfigurationError, PermissionDenied

if TYPE_CHECKING:
    from service.modules.import_records import ImportReport, Mode, RowResult, Source
    from service.modules.importer import Wipe
    from service.postgres.fernet_table import FernetTable

app = typer.Typer(no_args_is_help=True)

Opening = Callable[[], "AbstractAsyncContextManager[tuple[Source, Wipe | None]]"]

_TOKEN, _SOURCE_URL, _FERNET_KEY = "CREDENTIALS_TOKEN", "IMPORT_DATABASE_URL", "IMPORT_FERNET_KEY"
_MAX_KEY_FILE = 65_536

File = Annotated[Path, typer.Argument(metavar="FILE", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check every row; store and open nothing.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Store nothing: open what is here, and compare it with the source.")
]
AllRows = Annotated[bool, typer.Option("--all-rows", help="A line for every row, with its credential's id.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON, for programs: a line for each row that is told of, and the report.")
]


@app.callback()
def import_credentials() -> None:
    """Stores credentials that are kept somewhere else: each once, however often this is repeated or broken off.

    Settings are the service's, from the environment, and CREDENTIALS_TOKEN, an operator's token: the events name that
    operator. What is stored is opened and compared with its source; no key is ever shown. What is here already is not
    overwritten. A line says what is wrong with a row, and never what is in it. To go on after a failure, run it again.

    Exit status 1 if a row was refused, failed or differs, there was no row, the end wasn't reached, or what it needs
    (Vault, Postgres, the tokens' issuer) didn't answer, in which case there may be no report; 2 if something that was
    given is wrong, and nothing was begun.

    Columns, or members: user_id, account_id (a UUID), credential_type, api_key; and, as far as there are any:
    secret_key, id (a UUID, which the credential keeps), is_active, created_at (RFC 3339).
    """


@app.command("csv")
def from_csv(
    file: File, dry_run: DryRun = False, verify: Verify = False, all_rows: AllRows = False, in_json: JsonOption = False
) -> None:
    """From a CSV file with a heading line, in UTF-8."""
    _import_file(file, "csv", _mode(dry_run, verify), all_rows=all_rows, in_json=in_json)


@app.command("jsonl")
def from_json_lines(
    file: File, dry_run: DryRun = False, verify: Verify = False, all_rows: AllRows = False, in_json: JsonOption = False
) -> None:
    """From JSON lines: one object a line, in UTF-8."""
    _import_file(file, "jsonl", _mode(dry_run, verify), all_rows=all_rows, in_json=in_json)


@app.command("fernet-table")
def from_fernet_table(
    table: Annotated[str, typer.Option(help="The table; its schema may stand before it, with a dot.")],
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="OURS=THEIRS", help="A column of another name: api_key=enc_key. Repeatable."),
    ] = None,
    credential_type: Annotated[
        str | None, typer.Option("--type", help="The type of all rows, where no column says it.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help=f"A file with the Fernet keys, one a line. Better than {_FERNET_KEY}.")
    ] = None,
    wipe_source: Annotated[
        bool, typer.Option("--wipe-source", help="Empty both keys' columns of each row that was compared and is here.")
    ] = False,
    dry_run: DryRun = False,
    verify: Verify = False,
    all_rows: AllRows = False,
    in_json: JsonOption = False,
) -> None:
    """From a Postgres table whose keys are encrypted with Fernet, each in a column of its own.

    The table's database is at IMPORT_DATABASE_URL; the Fernet key is in a file (several, one a line, the newest first,
    where it was rotated) or, with commas between, in IMPORT_FERNET_KEY, where whoever may read this process's /proc
    sees it for as long as it runs. Columns: id, user_id, account_id, credential_type, is_active, created_at, and, for
    the keys, encrypted_api_key and encrypted_secret_key, unless --column says otherwise (created_at= and nothing: there
    is none).
    """
    mode = _mode(dry_run, verify)
    if wipe_source and dry_run:
        raise ConfigurationError("--wipe-source: not with --dry-run, which changes nothing")
    described = _described(table, columns or [], credential_type)

    @asynccontextmanager
    async def opened() -> "AsyncIterator[tuple[Source, Wipe | None]]":
        from service.postgres.fernet_table import FernetSource, fernet_of, weak_connection

        fernet = fernet_of(_fernet_keys(key_file))
        url = os.environ.pop(_SOURCE_URL, None)
        if not url:
            raise ConfigurationError(f"{_SOURCE_URL}: is not set")
        if (problem := weak_connection(url, os.environ.get("PGSSLMODE"))) is not None:
            typer.echo(f"vault-credentials: warning: {_SOURCE_URL}: {problem}", err=True)
        async with FernetSource.open(url, fernet, described) as source:
            yield source, source.wipe if wipe_source else None

    _run(opened, mode, all_rows=all_rows, in_json=in_json)


def _mode(dry_run: bool, verify: bool) -> "Mode":
    from service.modules.import_records import Mode

    if dry_run and verify:
        raise ConfigurationError("--verify: not with --dry-run, which opens nothing")
    return Mode.DRY_RUN if dry_run else Mode.VERIFY if verify else Mode.IMPORT


def _described(table: str, columns: list[str], credential_type: str | None) -> "FernetTable":
    from dataclasses import fields, replace

    from service.postgres.fernet_table import FernetTable

    schema, _, name = table.rpartition(".")
    if not name:
        raise ConfigurationError("--table: must be TABLE or SCHEMA.TABLE")
    described = FernetTable(schema=schema or "public", table=name)
    known = {each.name for each in fields(FernetTable)} - {"schema", "table", "only_type"}
    for each in columns:
        ours, separator, theirs = each.partition("=")
        may_lack = ours in ("is_active", "created_at")
        if not separator or ours not in known or not (theirs or may_lack):
            raise ConfigurationError(f"--column: must be OURS=THEIRS, with one of {', '.join(sorted(known))}")
        described = replace(described, **{ours: theirs or None})  # type: ignore[arg-type]  # None where it may be lacking
    return described if credential_type is None else replace(described, credential_type=None, only_type=credential_type)


def _fernet_keys(key_file: Path | None) -> list[str]:
    """The keys. Programs that are started from here don't inherit them; /proc shows what the process began with."""
    from service.sources.secret_lines import secret_file

    given = os.environ.pop(_FERNET_KEY, None)
    if (given is None) == (key_file is None):
        raise ConfigurationError(f"{_FERNET_KEY} or --key-file: one of them has to be given")
    if key_file is not None:
        with secret_file(key_file, "--key-file") as descriptor:
            _warn_if_exposed(descriptor, "--key-file")
            given = os.read(descriptor, _MAX_KEY_FILE).decode("ascii", "replace").replace("\n", ",")
    return [key.strip() for key in (given or "").split(",") if key.strip()]


def _import_file(file: Path, kind: str, mode: "Mode", *, all_rows: bool, in_json: bool) -> None:
    @asynccontextmanager
    async def opened() -> "AsyncIterator[tuple[Source, Wipe | None]]":
        from service.sources.files import FileSource, Kind
        from service.sources.secret_lines import SecretLines, secret_file

        with secret_file(file, file.name) as descriptor:
            _warn_if_exposed(descriptor, file.name)
            yield FileSource(SecretLines(descriptor, file.name), Kind(kind)), None

    _run(opened, mode, all_rows=all_rows, in_json=in_json)


def _warn_if_exposed(descriptor: int, name: str) -> None:
    from service.sources.secret_lines import exposure

    if (problem := exposure(descriptor, name)) is not None:
        typer.echo(f"vault-credentials: warning: {problem}", err=True)


def _run(opening: Opening, mode: "Mode", *, all_rows: bool, in_json: bool) -> None:
    from service.memory.hardening import harden

    harden("import")
    import asyncio
    import secrets

    from service.commands.import_output import report_json, report_lines, row_json, row_line
    from service.modules.import_records import Mode
    from service.observability import configure_logging

    configure_logging("WARNING")
    run_id = f"import-{secrets.token_hex(8)}"
    token = os.environ.pop(_TOKEN, "").strip()

    def told(result: "RowResult") -> None:
        if all_rows or result.needs_a_look:
            typer.echo(row_json(result) if in_json else row_line(result))

    report = asyncio.run(_imported(opening, mode, told, token, run_id))
    if isinstance(report.stopped_by, ConfigurationError) and not (report.rows or report.has_begun):
        raise report.stopped_by  # the source is none, and running it again would find the same
    typer.echo(report_json(report, run_id) if in_json else "\n".join(report_lines(report)))
    # A dry run that found nothing to look at has recorded nothing.
    if not in_json and not (mode is Mode.DRY_RUN and report.is_complete):
        typer.echo(f"Its events, where there are any, have the request_id {run_id}.")
    if report.stopped_by is not None or report.was_stopped:
        why = "" if report.stopped_by is None else f": {report.stopped_by}"
        typer.echo(f"vault-credentials: stopped before the end{why}. Run it again to go on.", err=True)
    elif not report.rows:
        typer.echo("vault-credentials: there are no rows in the source", err=True)
    if not (report.is_complete and report.rows):
        raise typer.Exit(1)


async def _imported(
    opening: Opening, mode: "Mode", told: "Callable[[RowResult], None]", token: str, run_id: str
) -> "ImportReport":
    import asyncio
    import signal

    from rich.console import Console

    from service.authz.policy import authorise_import
    from service.commands.import_output import import_progress
    from service.composition import Runtime
    from service.settings import load_settings

    settings = load_settings()
    stop = asyncio.Event()
    async with Runtime.open(settings, collect=True, bulk=True) as runtime:
        if runtime.identity is None:
            raise ConfigurationError(f"CREDENTIALS_OIDC_ISSUER: is not set; {_TOKEN} is checked with it")
        if not token:
            raise ConfigurationError(f"{_TOKEN}: is not set; it says which operator imports")
        # Before anything is read of the source.
        try:
            identity = await runtime.identity.verify(token)
            access = authorise_import(
                identity,
                None,
                request_id=run_id,
                refuse_live=settings.refuse_live,
                refuse_live_roles=settings.refuse_live_roles,
            )
        except AuthenticationFailed:
            why = "is not accepted: it may have expired, or not be of this issuer and audience"
            raise ConfigurationError(f"{_TOKEN}: {why}") from None
        except PermissionDenied:
            raise ConfigurationError(f"{_TOKEN}: is not an operator's") from None
        await runtime.reconciler.ensure_same_installation()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with opening() as (source, wipe):
            with import_progress(Console(stderr=True), source) as progress:
                return await runtime.importer.run(
                    access, source, mode, told=told, progress=progress, wipe=wipe, stop=stop
                )
