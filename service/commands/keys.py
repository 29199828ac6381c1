"""`vault-credentials keys`: looking at transit keys, and having them rotated, rewrapped to and retired, over REST."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer

from service.commands.asking_service import JsonOption, UrlOption, asked, note_target
from service.commands.options import RunningStackOption
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from service.commands.service_client import ServiceClient

app = typer.Typer(no_args_is_help=True)

Json = dict[str, Any]
_INTERRUPTED = 130  # as a shell counts SIGINT

Name = Annotated[str, typer.Argument(metavar="KEY", help="The key's name, as `keys list` shows it.")]
Below = Annotated[int, typer.Option("--below", min=1, help="All versions below this one.")]


@app.callback()
def keys(
    context: typer.Context,
    state_dir: RunningStackOption,
    url: UrlOption = None,
) -> None:
    """Shows the transit keys, rotates them, rewraps credentials, retires old versions: by asking the running service.

    As whoever the token in CREDENTIALS_TOKEN is of; for a local stack's own service, as an operator by itself.
    """
    note_target(context, url, state_dir)


@app.command("list")
def list_keys(context: typer.Context, as_json: JsonOption = False) -> None:
    """Every key: its newest version, and how much is under older ones."""
    from service.commands.key_tables import show_keys
    from service.schemas.key_schemas import KeyList

    found = _got(context, "/v1/keys", KeyList)
    _print(found, as_json, lambda console: show_keys(console, found["keys"]))


@app.command()
def show(context: typer.Context, name: Name, as_json: JsonOption = False) -> None:
    """One key: each version, what is encrypted under it, and what is safe to retire."""
    from service.commands.key_tables import show_key
    from service.schemas.key_schemas import KeyDetails

    key = _got(context, _path(name), KeyDetails)
    _print(key, as_json, lambda console: show_key(console, key))


@app.command()
def report(context: typer.Context, name: Name, as_json: JsonOption = False) -> None:
    """One key's report: its versions, a rewrap under way, who did what, and where Vault's UI shows it."""
    from service.commands.key_tables import show_report
    from service.schemas.key_schemas import KeyReportDetails

    found = _got(context, _path(name, "report"), KeyReportDetails)
    _print(found, as_json, lambda console: show_report(console, found))


@app.command()
def jobs(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="KEY", help="Of this key.", show_default="of all")] = None,
    as_json: JsonOption = False,
) -> None:
    """The newest rotations, rewraps and retirements, and what came of them."""
    from service.commands.key_tables import show_jobs
    from service.schemas.key_schemas import KeyList, KeyReportDetails

    async def found(client: "ServiceClient") -> list[Json]:
        names = (
            [name]
            if name is not None
            else [key["name"] for key in (await client.call("GET", "/v1/keys", KeyList))[1]["keys"]]
        )
        reports = [(await client.call("GET", _path(each, "report"), KeyReportDetails))[1] for each in names]
        return [job for each in reports for job in each["jobs"]]

    listed = asked(context, found)
    _print({"jobs": listed}, as_json, lambda console: show_jobs(console, listed))


@app.command()
def rotate(context: typer.Context, name: Name, as_json: JsonOption = False) -> None:
    """Makes a new version of a key. What is stored or updated from now on is encrypted under it."""
    _change(context, name, "rotate", None, as_json)


@app.command()
def rewrap(context: typer.Context, name: Name, as_json: JsonOption = False) -> None:
    """Has every credential of older versions encrypted under the newest, inside Vault, and shows how far that is.

    Ctrl-C stops showing it; the work goes on. Asked for again meanwhile, it shows the same job. Exit status 1 where
    credentials were left that could not be done.
    """
    _change(context, name, "rewrap", None, as_json)


@app.command()
def retire(context: typer.Context, name: Name, below: Below, as_json: JsonOption = False) -> None:
    """Has Vault decrypt nothing any more that is under a version below the given one.

    It is refused, with a list, where something still is; `rewrap` first. Whoever may configure the key in Vault can
    undo it.
    """
    _change(context, name, "retire", {"below_version": below}, as_json)


@app.command()
def stop(context: typer.Context, job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]) -> None:
    """Asks whoever works on a job to stop. What it has done stays done."""
    from service.commands.key_tables import outcome
    from service.commands.service_client import plain
    from service.schemas.key_schemas import JobSummary

    async def stopped(client: "ServiceClient") -> Json:
        return (await client.call("POST", f"/v1/jobs/{quote(job, safe='')}/stop", JobSummary))[1]

    found = asked(context, stopped)
    over = found["state"] in ("done", "failed")
    typer.echo(outcome(found) if over else f"asked {plain(found['id'])} to stop")


@app.command()
def trim(
    context: typer.Context,
    name: Name,
    below: Below,
    yes: Annotated[str | None, typer.Option(metavar="KEY", help="The key's name again, to be asked nothing.")] = None,
) -> None:
    """Removes a key's retired versions from Vault for good. NOBODY CAN UNDO THIS, nor bring back what is under them.

    Done with your own login to Vault (VAULT_ADDR, VAULT_TOKEN; `vault-policies/operator.hcl` allows it), after the
    service was asked that nothing is under these versions, that they are retired, and that Vault and Postgres are of
    the same moment. A backup of Postgres and Vault's KV from before the rewrap has credentials that do not open any
    more.
    """
    from service.commands.key_trimming import (
        Readiness,
        Trimming,
        check_moment,
        check_with_service,
        vault_from_environment,
    )
    from service.commands.service_client import plain
    from service.schemas.key_schemas import KeyDetails

    key = _got(context, _path(name), KeyDetails)
    check_with_service(key, below)
    check_moment(_got(context, "/readyz", Readiness))
    with vault_from_environment() as vault:
        trimming = Trimming(vault, key, below)
        trimming.check()
        shown = plain(key["name"])
        typer.echo(f"Versions of {shown} below {below} will be gone from the Vault at {plain(vault.address)} for good.")
        typer.echo("Vault wants min_encryption_version set for it; then it can be raised, and never be unset again.")
        if (typer.prompt("The key's name, to go on") if yes is None else yes) != key["name"]:
            raise ConfigurationError("that is not the key's name: nothing was trimmed")
        trimming.trim()
    typer.echo(f"trimmed: the oldest version of {shown} is {below}")
    typer.echo(
        "From now on, before versions below N are retired: "
        f"vault write {plain(key['transit_mount'])}/keys/{shown}/config min_encryption_version=N"
    )


def _change(context: typer.Context, name: str, what: str, body: Json | None, as_json: bool) -> None:
    """Asks for a job, follows it where it isn't over, and shows what came of it. Exit status 1 where it has failed."""
    from rich.console import Console

    from service.commands.job_progress import follow
    from service.commands.service_client import ServiceProblem, plain
    from service.schemas.key_schemas import JobDetails, JobSummary, KeyDetails

    asked_for: Json = {}

    async def changed(client: "ServiceClient") -> Json:
        status, document = await client.call("POST", _path(name, what), JobSummary, KeyDetails, body=body)
        if status != 202:
            return document
        asked_for.update(document)
        return dict(await follow(client, document, Console(quiet=as_json)))

    try:
        result = asked(context, changed)
    except ServiceProblem as problem:
        if problem.name == "versions-still-needed":
            _refused(problem.document, as_json)
        if "job" not in problem.document:
            raise
        result = _got(context, f"/v1/jobs/{quote(str(problem.document['job']), safe='')}", JobDetails)
    except KeyboardInterrupt:
        if asked_for:
            job = plain(asked_for["id"])
            typer.echo(f"The job goes on; this stops it: vault-credentials keys stop {job}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    if "kind" not in result:
        _print(result, as_json, lambda console: _shown_key(console, result))
        return
    if result["reason"] == "still_needed":
        ids = [each["credential_id"] for each in result["failures"]]
        _refused({**result, "count": result["failed"], "credentials": ids}, as_json)
    _print(result, as_json, lambda console: _shown_job(console, result))
    if result["state"] == "failed":
        raise typer.Exit(1)


def _shown_key(console: "Console", key: Json) -> None:
    from service.commands.key_tables import show_key

    show_key(console, key)


def _shown_job(console: "Console", job: Json) -> None:
    from service.commands.key_tables import outcome
    from service.commands.service_client import plain

    console.print(f"{plain(job['kind'])} {outcome(job)}", markup=False, highlight=False)
    for each in job["failures"]:
        console.print(f"  {plain(each['credential_id'])}: {plain(each['reason'])}", markup=False, highlight=False)


def _refused(document: Json, as_json: bool) -> NoReturn:
    from service.commands.key_tables import show_in_the_way

    _print(document, as_json, lambda console: show_in_the_way(console, document["count"], document["credentials"]))
    raise typer.Exit(1)


def _got(context: typer.Context, path: str, schema: "type[BaseModel]") -> Json:
    async def got(client: "ServiceClient") -> Json:
        return (await client.call("GET", path, schema))[1]

    return asked(context, got)


def _path(name: str, what: str | None = None) -> str:
    path = f"/v1/keys/{quote(name, safe='')}"
    return path if what is None else f"{path}/{what}"


def _print(document: Json, as_json: bool, show: "Callable[[Console], None]") -> None:
    if as_json:
        typer.echo(json.dumps(document, indent=2))  # which writes control characters as escapes
        return
    from rich.console import Console

    show(Console())
