"""`vault-credentials suspensions`: the kill switch from a shell, by asking the running service over REST."""

import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from service.commands.asking_service import JsonOption, UrlOption, asked, note_target
from service.commands.options import RunningStackOption
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from service.commands.service_client import ServiceClient

app = typer.Typer(no_args_is_help=True)

Json = dict[str, Any]
_PAGE = 200
_MOST = 1000
"""Up to which credentials are counted."""

User = Annotated[str | None, typer.Option(metavar="NAME", help="The user's name.")]
Account = Annotated[str | None, typer.Option(metavar="ID", help="The account's id, a UUID: of whichever user.")]


@app.callback()
def suspensions(
    context: typer.Context,
    state_dir: RunningStackOption,
    url: UrlOption = None,
) -> None:
    """The kill switch: nobody may use a suspended user's or account's credentials. By asking the running service.

    As whoever the token in CREDENTIALS_TOKEN is of; for a local stack's own service, as an operator by itself.
    """
    note_target(context, url, state_dir)


@app.command("list")
def list_suspensions(context: typer.Context, as_json: JsonOption = False) -> None:
    """Who is suspended, since when, by whom and why: the newest 200."""
    from service.schemas.suspension_schemas import SuspensionPage

    async def found(client: "ServiceClient") -> list[Json]:
        listed: list[Json] = (await client.call("GET", f"/v1/suspensions?limit={_PAGE}", SuspensionPage))[1][
            "suspensions"
        ]
        return listed

    listed = asked(context, found)
    _print({"suspensions": listed}, listed, as_json)
    if len(listed) == _PAGE:
        typer.echo(f"These are the newest {_PAGE}; the others are at /v1/suspensions, page by page.", err=True)


@app.command()
def suspend(
    context: typer.Context,
    user: User = None,
    account: Account = None,
    reason: Annotated[str | None, typer.Option(help="Why, for operators and auditors to read.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Suspends a user or an account. When this has answered, no replica opens, hands off or calls a provider for it.

    Calls under way are cut within a second. Hand-offs that are out last until their time is over.
    """
    from service.schemas.suspension_schemas import SuspensionDetails

    path = _path(user, account)

    async def suspended(client: "ServiceClient") -> Json:
        return (await client.call("POST", path, SuspensionDetails, body={"reason": reason}))[1]

    made = asked(context, suspended)
    _print(made, [made], as_json)
    if reason is not None and made["reason"] != reason:
        typer.echo("note: it was suspended before; that one is in force, and its reason stays", err=True)
    if made.get("credentials") == 0:
        # It is in force all the same: whoever it is may be about to store some.
        typer.echo("note: nobody of that name, or no such account, has a credential; is it written right?", err=True)


@app.command()
def resume(context: typer.Context, user: User = None, account: Account = None) -> None:
    """Lifts a suspension. Whose user and account are both suspended needs both lifted."""
    from service.schemas.suspension_schemas import SuspensionPage

    path = _path(user, account)

    async def resumed(client: "ServiceClient") -> bool:
        await client.call("DELETE", path)
        return bool((await client.call("GET", "/v1/suspensions?limit=1", SuspensionPage))[1]["suspensions"])

    are_left = asked(context, resumed)
    typer.echo("resumed")
    if are_left:
        typer.echo(
            "note: others are still suspended (`suspensions list`); whose account or user is stays cut off", err=True
        )


def _path(user: str | None, account: str | None) -> str:
    if (user is None) == (account is None):
        raise ConfigurationError("name either --user or --account")
    kind, name = ("users", user) if user is not None else ("accounts", account)
    if name in (".", ".."):
        # Encoded too, the client would take them for steps up the path.
        raise ConfigurationError("--user: a name of one or two dots can't be put into an address by this command")
    return f"/v1/{kind}/{quote(str(name), safe='')}/suspension"


def _print(document: Json, listed: list[Json], as_json: bool) -> None:
    from service.commands.service_client import plain

    if as_json:
        typer.echo(json.dumps(document, indent=2))  # which writes control characters as escapes
        return
    for each in listed:
        whom = f"user {plain(each['user_id'])}" if each["account_id"] is None else f"account {each['account_id']}"
        why = "" if each["reason"] is None else f": {plain(each['reason'])}"
        typer.echo(
            f"{whom}{_held(each.get('credentials'))}, since {plain(each['suspended_at'])}"
            f" by {plain(each['suspended_by'])}{why}"
        )
    if not listed:
        typer.echo("nobody is suspended")


def _held(credentials: int | None) -> str:
    """Nothing where a replica could not count them, or is of a version that doesn't."""
    if credentials is None:
        return ""
    if credentials > _MOST:
        return f": more than {_MOST} credentials"
    return ": 1 credential" if credentials == 1 else f": {credentials} credentials"
