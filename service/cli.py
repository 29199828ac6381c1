"""The command line. Thin: what a command does is elsewhere, and is imported when the command runs."""

import contextlib
import os
import shlex
import sys
from enum import StrEnum
from typing import Annotated

import typer

from service.commands import events, import_credentials, keys, suspensions
from service.commands.options import RunningStackOption, StateDirOption, need_local_extra
from service.commands.reconcile import reconcile
from service.commands.worker import worker
from service.errors import ConfigurationError, CredentialsError, InvalidInput

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # they print local variables
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"vault-credentials {version('vault-credentials')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keeps users' Alpaca and Polygon API credentials, encrypted by Vault, indexed in Postgres."""


class TokenRole(StrEnum):
    """The roles a caller can have."""

    USER = "user"
    ORCHESTRATOR = "orchestrator"
    OPERATOR = "operator"
    AUDITOR = "auditor"


@app.command()
def run(
    state_dir: StateDirOption,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The service's port; 0 takes any free one.")] = 8080,
) -> None:
    """Starts Postgres, Vault and the service on this machine, and prints how to use them. Ctrl-C stops all.

    Postgres is the one at DATABASE_URL (as a user who may create tables and roles), else an embedded one.

    Vault is the one at VAULT_ADDR (with a VAULT_TOKEN that may provision it), else the first that can be had here:
    the vault program on PATH, Docker, or one built from its Go module, once, which takes some minutes.
    CREDENTIALS_LOCAL_VAULT=path, =docker or =build allows that one way alone.
    """
    from service.memory.hardening import harden

    harden("run")
    need_local_extra()
    from service.localstack.launcher import run as run_stack

    run_stack(port, state_dir, _progress)


@app.command()
def serve() -> None:
    """Serves, with settings from the environment.

    It starts itself anew, once, with freed memory wiped, and refuses to serve where that could be had and was not.
    """
    from service.memory.hardening import harden, log_zeroing

    zeroing = harden("serve")
    from service.app import create_app
    from service.observability import configure_logging
    from service.server import serve as serve_app
    from service.settings import load_settings
    from service.settings_files import log_exposed_files
    from service.tracing import exporting

    settings = load_settings()
    configure_logging(settings.log_level)
    application = create_app(settings, collect=True)

    def ready() -> None:
        log_zeroing(zeroing)
        log_exposed_files(settings)

    def not_ready_any_more() -> None:
        application.state.runtime.readiness.withdraw()

    with exporting(), contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly stop
        # Logged when it listens, so that a start that fails says why it failed, and nothing else.
        serve_app(
            application,
            host=settings.host,
            port=settings.port,
            when_ready=ready,
            when_leaving=not_ready_any_more,
            drain_seconds=settings.drain_seconds,
            grace_seconds=settings.grace_seconds,
        )


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def execute(
    command: Annotated[list[str], typer.Argument(metavar="CMD ...", help="The program and its arguments.")],
) -> None:
    """Starts a program that embeds the library, with freed memory wiped: vault-credentials exec -- CMD ...

    The program takes this command's place: its exit status, its signals and its process id are its own. What it starts
    inherits the environment. The library in it collects garbage as the service does (CREDENTIALS_COLLECT_SECONDS).
    """
    from service.memory.hardening import execute as become

    become(command)


@app.command()
def doctor(
    full: Annotated[
        bool, typer.Option("--full", help="Compare every credential with Vault, not the newest alone.")
    ] = False,
) -> None:
    """Says what is in force for a command started now, what is missing and how to get it; tries the connections.

    What wipes freed memory, locked pages, core dumps; and, where DATABASE_URL and VAULT_ADDR are set, Vault, the
    transit key, Postgres, whether these belong together, the callers' token issuer, the rotator's logins, and whether
    Vault and Postgres are of the same moment: after a restore of one of them, which credentials don't fit. Exit status
    1 if something is wrong.
    """
    from service.doctor import doctor as examine
    from service.observability import configure_logging

    configure_logging("CRITICAL")  # the findings say it
    if not examine(full=full):
        raise typer.Exit(1)


@app.command()
def migrate() -> None:
    """Brings the database at DATABASE_URL (as the owner of its tables) to what this version needs."""
    import asyncio

    from service.postgres.migrate import migrate as migrate_database
    from service.providers.registry import credential_types
    from service.settings import load_provider_settings

    database_url = os.environ.get("DATABASE_URL")
    if not database_url:
        raise ConfigurationError("DATABASE_URL: is not set; give the URL of the tables' owner")
    prefix = os.environ.get("CREDENTIALS_TRANSIT_KEY_PREFIX") or "credentials-"
    types = sorted(credential_types(load_provider_settings()))
    applied = asyncio.run(migrate_database(database_url, transit_keys=[prefix + each for each in types]))
    typer.echo("\n".join(f"applied {name}" for name in applied) or "nothing to apply")


@app.command()
def token(
    state_dir: RunningStackOption,
    subject: Annotated[str, typer.Option(help="Whose token: the name the service knows this caller by.")],
    role: Annotated[TokenRole, typer.Option(help="What the caller is.")] = TokenRole.USER,
    vault: Annotated[
        bool, typer.Option("--vault", help="An operator's or auditor's token for Vault's own UI and CLI instead.")
    ] = False,
) -> None:
    """Prints a JWT for the service, good for an hour; with --vault, a Vault token, good for eight.

    Both are of the local stack's Vault.
    """
    need_local_extra()
    from service.localstack.stack import mint_token, mint_vault_token

    typer.echo((mint_vault_token if vault else mint_token)(state_dir, role.value, subject))


@app.command()
def env(state_dir: RunningStackOption) -> None:
    """Prints `export` lines for using the local stack from a shell or another program. They hold passwords."""
    need_local_extra()
    from service.localstack.stack import noted_environment

    for name, value in sorted(noted_environment(state_dir).items()):
        typer.echo(f"export {name}={shlex.quote(value)}")


# Commands with a module of their own. What they need they import when they run, too.
app.command()(reconcile)
app.command()(worker)
app.add_typer(keys.app, name="keys")
app.add_typer(events.app, name="events")
app.add_typer(import_credentials.app, name="import")
app.add_typer(suspensions.app, name="suspensions")


def main() -> None:
    """The `vault-credentials` command. Exit status 2: something given is wrong; 1: it did not work."""
    try:
        app()
    except (ConfigurationError, InvalidInput) as error:
        _fail(str(error), 2)
    except CredentialsError as error:
        _fail(str(error), 1)


def _fail(message: str, status: int) -> None:
    typer.echo(f"vault-credentials: {message}", err=True)
    sys.exit(status)


def _progress(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    main()
