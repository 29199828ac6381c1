"""Brings a database to what this version of the service needs. Run as the owner, by `vault-credentials migrate`.

Numbered SQL files, each applied once, in order, in a transaction of its own, under an advisory lock. A file that has
been applied is never changed: its SHA-256 is compared.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import NamedTuple
from uuid import UUID

import asyncpg

from service.errors import ConfigurationError, DatabaseNotReady, DatabaseUnavailable
from service.postgres.pool import translated_errors
from service.postgres.queries import SQL

_SCRAM_ROUNDS = 4096  # Postgres' own default; the passwords here are random
_EVENT_MONTHS = 13
"""Partitions made ahead. Without one a month's events go to the default partition, so being late stops nothing."""


class Migration(NamedTuple):
    """One numbered file."""

    version: int
    name: str
    statements: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.statements.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations that this version of the service has, in order."""
    found = []
    for file in (files("service.postgres") / "migrations").iterdir():
        if match := re.fullmatch(r"(\d{4})_\w+\.sql", file.name):
            found.append(Migration(int(match[1]), file.name, file.read_text()))
    return sorted(found)


LATEST_VERSION = migrations()[-1].version


async def migrate(database_url: str, *, transit_keys: Sequence[str]) -> list[str]:
    """Applies what is missing, makes the coming months' event partitions and a floor for each transit key.

    Safe to run again, and by several at once. Returns the names of the files that it applied.

    Raises:
        DatabaseNotReady: the database has migrations that this version doesn't know, or other ones of the same number.
        DatabaseUnavailable: Postgres could not be reached, or refused; or somebody has a table for longer than 3 s, for
            which everybody would have to wait. What was applied before stays.
    """
    applied: list[str] = []
    async with _connected(database_url) as conn:
        await conn.execute(SQL["hold_migration_lock"])
        await conn.execute(SQL["wait_briefly_for_tables"])
        bookkeeping, *rest = migrations()
        await conn.execute(bookkeeping.statements)
        known = {row["version"]: row["sha256"] for row in await conn.fetch(SQL["applied_migrations"])}
        if set(known) - {migration.version for migration in rest}:
            raise DatabaseNotReady("Postgres has migrations that this version of the service does not know")
        for migration in rest:
            if migration.version in known:
                if known[migration.version] != migration.sha256:
                    raise DatabaseNotReady(f"Postgres was migrated with another {migration.name}")
                continue
            async with conn.transaction():
                await conn.execute(migration.statements)
                await conn.execute(SQL["note_migration"], *migration[:2], migration.sha256)
            applied.append(migration.name)
        await conn.execute(SQL["ensure_event_partitions"], _EVENT_MONTHS)
        for key in transit_keys:
            await conn.execute(SQL["ensure_floor"], key)
    return applied


async def installation_id(database_url: str) -> UUID:
    """The id that migration gave this database; provisioning writes the same to Vault."""
    async with _connected(database_url) as conn:
        row = await conn.fetchrow(SQL["installation_id"])
    if row is None:
        raise DatabaseNotReady
    found: UUID = row["id"]
    return found


async def create_login(database_url: str, *, name: str, password: str, member_of: str) -> None:
    """Makes a login role that is a member of one of the service's group roles, or gives it a new password.

    Postgres gets the password's SCRAM verifier and not the password, which its log would show with a failed statement.
    """
    async with _connected(database_url) as conn, conn.transaction():
        await conn.execute(await conn.fetchval(SQL["write_create_login"], name, _scram_verifier(password)))
        await conn.execute(await conn.fetchval(SQL["write_grant_membership"], member_of, name))


def _scram_verifier(password: str) -> str:
    """RFC 5802's StoredKey and ServerKey, as Postgres keeps them. SASLprep leaves an ASCII password alone."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _SCRAM_ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    served = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode("ascii") for part in (salt, stored, served)]
    return f"SCRAM-SHA-256${_SCRAM_ROUNDS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    try:
        with translated_errors():
            conn = await asyncpg.connect(database_url, timeout=10)
            try:
                yield conn
            except asyncpg.InsufficientPrivilegeError:
                raise ConfigurationError(
                    "DATABASE_URL: this needs the owner of the tables; that user may not"
                ) from None
            except asyncpg.LockNotAvailableError:
                raise DatabaseUnavailable(
                    "Somebody else is using a table that this has to have: run it again when they have done"
                ) from None
            finally:
                await conn.close(timeout=10)
    except ValueError:
        raise ConfigurationError("DATABASE_URL: not a PostgreSQL URL") from None
