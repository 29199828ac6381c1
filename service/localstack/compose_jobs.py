"""The one-shot jobs of docker-compose.yml, each in a container that ends when it is done. Safe to run again.

`prepare` makes what the servers need to start: Vault's certificate, and the password of Postgres' superuser.
`provision` initialises Vault or unseals it, migrates Postgres, provisions both, and writes what the service and the
worker need to log in. `token` prints a token for trying it out.

FOR ONE MACHINE ONLY. The volume `keys` holds the unseal key and the root token of this Vault and the password of the
tables' owner; no container but `provision`'s has it. Whoever reads Docker's volumes on this machine has it all.
The process that holds them wipes freed memory, writes no core dump and is closed to debuggers, as the service is.

Each volume is a folder here, and each reader has its own: Vault's container sees its certificate and nothing else,
Postgres' its password, the service its settings.
"""

import secrets
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import asyncpg
import typer

from service.errors import ConfigurationError, CredentialsError, InvalidInput
from service.localstack import identity_tokens, provisioning, vault_tokens
from service.localstack.certificates import CA_FILE, ensure_certificate, write_for_group
from service.localstack.policies import VaultNames
from service.localstack.postgres_server import DATABASE, OWNER, answers, blocking, ensure_owner
from service.localstack.stack import ROTATOR_ROLE, RUNTIME_ROLE, database_login
from service.localstack.state_dir import StateDir
from service.localstack.vault_admin import VaultAdmin
from service.localstack.vault_server import opened
from service.memory.hardening import harden
from service.postgres.migrate import installation_id, migrate
from service.providers.registry import credential_types
from service.settings import load_provider_settings

FOLDER = Path("/var/lib/vault-credentials")
"""Where the image has a folder for each volume."""

_VAULT = "https://vault:8200"
_VAULT_NAMES = ("vault", "localhost")
_LOOPBACK = ("127.0.0.1",)
_POSTGRES = "postgres:5432"
_SUPERUSER = "postgres"
_SUPERUSER_PASSWORD = "superuser-password"  # noqa: S105 - a file's name
_MINTING_TOKEN = "minting.token"  # noqa: S105 - a file's name
_AUDIT_LOG = "/vault/logs/audit.log"
_START_SECONDS = 60.0

_DATABASE_SQL = Path(__file__).with_name("database.sql")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class TokenRole(StrEnum):
    """The roles a caller can have."""

    USER = "user"
    ORCHESTRATOR = "orchestrator"
    OPERATOR = "operator"
    AUDITOR = "auditor"


@app.command()
def prepare() -> None:
    """Makes Vault's certificate, and the password of Postgres' superuser, where they are missing."""
    if ensure_certificate(FOLDER / "vault-tls", _VAULT_NAMES, _LOOPBACK):
        _say("made a certificate for Vault, good for 397 days; `up` makes a new one in the last 60")
    password = FOLDER / "postgres" / _SUPERUSER_PASSWORD
    if not password.exists():
        write_for_group(password, secrets.token_hex(24).encode())
        _say("made a password for Postgres' superuser")


@app.command()
def provision() -> None:
    """Unseals Vault, migrates Postgres, provisions both. What is there already stays as it is."""
    keys = StateDir(FOLDER / "keys")
    keys.create()
    with keys.locked(), _admin() as anyone:
        token = opened(anyone, keys, _say)
        owner_url = _owner_url(keys)
        names = VaultNames()
        types = sorted(credential_types(load_provider_settings()))
        blocking(migrate(owner_url, transit_keys=[names.type_key(each) for each in types]))
        installation = blocking(installation_id(owner_url))
        with anyone.with_token(token) as vault:
            # Before there is anything to audit, so that its log misses nothing.
            provisioning.ensure_audited(vault, _AUDIT_LOG, _say)
            provisioning.provision(vault, installation, names, types)
            vault_tokens.ensure_roles(vault, names)
            keys.write(_MINTING_TOKEN, provisioning.minting_token(vault, keys.read(_MINTING_TOKEN)))
            identity_tokens.ensure_issuer(vault, is_ours=True)
            service, worker = StateDir(FOLDER / "service"), StateDir(FOLDER / "worker")
            runtime = provisioning.runtime_login(vault, names, _kept(service, "secret-id"))
            rotator = provisioning.rotator_login(vault, names, _kept(worker, "secret-id"))
        _write_settings(
            service,
            {
                "DATABASE_URL": database_login(owner_url, RUNTIME_ROLE, installation, keys),
                "CREDENTIALS_VAULT_ROLE_ID": runtime.role_id,
                "secret-id": runtime.secret_id,
            },
        )
        _write_settings(
            worker,
            {
                "CREDENTIALS_ROTATOR_DATABASE_URL": database_login(owner_url, ROTATOR_ROLE, installation, keys),
                "CREDENTIALS_ROTATOR_VAULT_ROLE_ID": rotator.role_id,
                "secret-id": rotator.secret_id,
            },
        )
    _say("provisioned: the service and the worker can start")


@app.command()
def token(
    subject: Annotated[str, typer.Option(help="Whose token: the name the service knows this caller by.")],
    role: Annotated[TokenRole, typer.Option(help="What the caller is.")] = TokenRole.USER,
    vault: Annotated[
        bool, typer.Option("--vault", help="An operator's or auditor's token for Vault's own UI and CLI instead.")
    ] = False,
) -> None:
    """Prints a JWT for the service, good for an hour; with --vault, a Vault token, good for eight."""
    minting = _kept(StateDir(FOLDER / "keys"), _MINTING_TOKEN)
    if minting is None:
        raise ConfigurationError("nothing is provisioned yet: docker compose up -d")
    with _admin(minting) as minter:
        typer.echo((vault_tokens if vault else identity_tokens).mint(minter, role.value, subject))


def _admin(token: str | None = None) -> VaultAdmin:
    return VaultAdmin(_VAULT, token, cacert=str(FOLDER / "vault-tls" / CA_FILE))


def _owner_url(keys: StateDir) -> str:
    """The database's owner, made if it is missing, and the database given to it."""
    superuser_url = _url(_SUPERUSER, (FOLDER / "postgres" / _SUPERUSER_PASSWORD).read_text(encoding="ascii").strip())
    give_up = time.monotonic() + _START_SECONDS
    while not blocking(answers(superuser_url)):
        if time.monotonic() > give_up:
            raise ConfigurationError(
                "Postgres does not answer, or not to the password in the volume `postgres-secrets`: was one of it and "
                "`postgres-data` deleted without the other?"
            )
        time.sleep(0.5)
    password = _kept(keys, "owner.password")
    if password is None:
        password = secrets.token_hex(24)  # hex needs no escaping in a URL
        keys.write("owner.password", password)
    blocking(ensure_owner(superuser_url, password))
    blocking(_give_database(superuser_url))
    return _url(OWNER, password)


async def _give_database(superuser_url: str) -> None:
    connection = await asyncpg.connect(superuser_url, timeout=10)
    try:
        await connection.execute(_DATABASE_SQL.read_text(encoding="utf-8"))
    finally:
        await connection.close(timeout=10)


def _url(user: str, password: str) -> str:
    return f"postgresql://{user}:{quote(password, safe='')}@{_POSTGRES}/{DATABASE}"


def _write_settings(folder: StateDir, files: Mapping[str, str]) -> None:
    """What a process is started with, one file for each setting, and the authority by which it knows Vault."""
    folder.create()
    folder.write(CA_FILE, (FOLDER / "vault-tls" / CA_FILE).read_text(encoding="ascii"))
    for name, value in files.items():
        folder.write(name, value)


def _kept(folder: StateDir, name: str) -> str | None:
    folder.check_owner()
    return folder.read(name)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def main() -> None:
    """Exit status 2: something given is wrong; 1: it did not work."""
    try:
        harden("job")  # here, not in the commands: no secret is in memory yet
        app()
    except CredentialsError as error:
        _say(f"{Path(sys.argv[0]).stem}: {error}")
        sys.exit(2 if isinstance(error, ConfigurationError | InvalidInput) else 1)


if __name__ == "__main__":
    main()
