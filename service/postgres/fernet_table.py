"""Credentials in a Postgres table, each key in a column of its own, encrypted with Fernet: as an ancestor kept them.

https://cryptography.io/en/latest/fernet/; several keys, the newest first, are `MultiFernet`'s.
"""

import asyncio
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from service.errors import ConfigurationError, InvalidInput
from service.memory.plaintext import Plaintext
from service.modules.import_records import Check, SourceRow, UnreadableRow
from service.modules.input_checks import uuid_from
from service.postgres.pool import AS_WRITTEN, translated_errors
from service.postgres.queries import SQL

_PREFETCH = 200
_MAX_TOKEN = 65_536
_SECONDS = 60.0

_REFUSED = (
    asyncpg.SyntaxOrAccessError,  # what isn't there, what isn't permitted, what is of another type
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.RaiseError,
)
_SHOWN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)

Token = str | bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FernetTable:
    """Where the credentials are, by the names of the table and of its columns."""

    schema: str = "public"
    table: str
    id: str = "id"
    user_id: str = "user_id"
    account_id: str = "account_id"
    credential_type: str | None = "credential_type"
    """None: all are of `only_type`."""
    api_key: str = "encrypted_api_key"
    secret_key: str = "encrypted_secret_key"  # noqa: S105 - a column's name
    is_active: str | None = "is_active"
    """None: all are."""
    created_at: str | None = "created_at"
    """None: nobody knows."""
    only_type: str = "alpaca"


def fernet_of(keys: Sequence[str]) -> MultiFernet:
    """Of Fernet's keys, in URL-safe base64, the newest first. Raises ConfigurationError where one is none."""
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except (ValueError, TypeError):
        raise ConfigurationError("the Fernet key is none: it is 32 bytes in URL-safe base64") from None


def weak_connection(url: str, sslmode: str | None) -> str | None:
    """What to say where the table's rows, and a password, could be read or changed on the way; None where not.

    `sslmode`: what holds where the URL has none (PGSSLMODE).
    """
    try:
        parts = urlsplit(url)
        asked = parse_qs(parts.query)
        hosts = asked.get("host") or [each.rpartition(":")[0] for each in _authority(parts.netloc)]
        if asked.get("sslmode", [sslmode])[-1] == "verify-full" or all(map(_is_here, ",".join(hosts).split(","))):
            return None
    except ValueError:
        return None  # it can't be connected to, either
    return "the way to another machine is not protected without sslmode=verify-full"


def _authority(netloc: str) -> list[str]:
    """Its hosts, each with a colon and a port, or nothing, behind it."""
    hosts = netloc.rpartition("@")[2].split(",")
    return [each if re.search(r":\d*$", each) and not each.endswith("]") else f"{each}:" for each in hosts]


def _is_here(host: str) -> bool:
    if host in ("", "localhost") or host.startswith(("/", "@")) or host.lower().startswith("%2f"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class FernetSource:
    """A `Source`: the rows of such a table, as they were at one moment.

    Guarantees: a row whose id is a UUID keeps it; rows come in the order in which they were made; `wipe` changes a row
    only if its keys are as they were read; a key that an earlier row of another user has is refused, as Fernet binds no
    ciphertext to its row (some 250 bytes of memory a row, keyed hashes and no key). Does not: tell which of the two
    rows is the key's; notice what was exchanged and not copied; keep others from changing the table meanwhile; wipe
    what Postgres keeps of a changed row (until VACUUM), its write-ahead log or its backups: those end with the Fernet
    key.
    """

    def __init__(self, reading: Any, wiping: Any, table: FernetTable, fernet: MultiFernet) -> None:
        self._reading = reading
        self._wiping = wiping
        self._table = table
        self._fernet = fernet
        self._one_at_a_time = asyncio.Lock()  # asyncpg's connections take one statement at a time
        self._wipe_statement: str | None = None
        self._run_key = secrets.token_bytes(32)
        self._users: dict[bytes, bytes] = {}
        """Whose each key is, by HMACs of both under a key of this run."""
        self.total = 0
        self.position = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, fernet: MultiFernet, table: FernetTable) -> AsyncIterator[Self]:
        """Connects, and counts the rows.

        Raises:
            ConfigurationError: the database can't be had; there is no such table, or no such id; an id is there twice.
        """
        async with AsyncExitStack() as stack:
            try:
                # One holds the cursor, the other changes rows meanwhile.
                reading, wiping = [await _connected(stack, url) for _ in range(2)]
            except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                raise ConfigurationError("IMPORT_DATABASE_URL: can't be connected to") from None
            source = cls(reading, wiping, table, fernet)
            await source._count()
            yield source

    async def _count(self) -> None:
        table = self._table
        written = await self._reading.fetchval(SQL["write_count_fernet"], table.schema, table.table, table.id)
        with _readable():
            counted = await self._reading.fetchrow(written)
        if counted["rows"] != counted["ids"]:
            raise ConfigurationError("the source's table: its id column has an id twice, or rows without one")
        self.total = counted["rows"]

    async def rows(self, _check: Check) -> AsyncIterator[SourceRow | UnreadableRow]:
        """Raises ConfigurationError where the table lacks a column, DatabaseUnavailable where it breaks off."""
        # Nothing is checked here: the key of a row that is wrong counts as its user's all the same, or whose row is
        # wrong could have their key stored as that of whoever copied it.
        table = self._table
        written = await self._reading.fetchval(
            SQL["write_rows_fernet"],
            table.schema,
            table.table,
            table.id,
            table.user_id,
            table.account_id,
            table.credential_type,
            table.api_key,
            table.secret_key,
            table.is_active,
            table.created_at,
            table.only_type,
        )
        with _readable():
            async with self._reading.transaction(isolation="repeatable_read", readonly=True):
                async for row in self._reading.cursor(written, prefetch=_PREFETCH):
                    self.position += 1
                    yield self._row(row)

    async def wipe(self, row: SourceRow) -> bool:
        """Empties both keys' columns. False where the row is gone, or its keys aren't as they were read."""
        table = self._table
        assert isinstance(row.origin, tuple)  # noqa: S101 - narrows a type; this source's rows have one
        row_id, api_key, secret_key = row.origin
        async with self._one_at_a_time:
            with _readable():
                if self._wipe_statement is None:
                    self._wipe_statement = await self._wiping.fetchval(
                        SQL["write_wipe_fernet"], table.schema, table.table, table.id, table.api_key, table.secret_key
                    )
                done = await self._wiping.execute(self._wipe_statement, row_id, api_key, secret_key, timeout=_SECONDS)
        return bool(done == "UPDATE 1")

    def _row(self, row: Any) -> SourceRow | UnreadableRow:
        shown = row["id"] is not None and _SHOWN_ID.fullmatch(row["id"])
        where = f"id {row['id']}" if shown else f"row {self.position}"
        try:
            return self._read(where, row)
        except InvalidInput as error:
            return UnreadableRow(where, str(error))

    def _read(self, where: str, row: Any) -> SourceRow:
        for name in ("id", "user_id", "account_id", "credential_type", "is_active"):
            if row[name] is None:
                raise InvalidInput(name, "is null")
        account_id = str(uuid_from("account_id", row["account_id"]))
        try:
            known_id: UUID | None = uuid_from("id", row["id"])
        except InvalidInput:
            known_id = None
        created_at: datetime | None = row["created_at"]
        if created_at is None and row["is_dated"]:
            raise InvalidInput("created_at", "must be in the years 1 to 9999")
        api_key = self._opened("api_key", row["api_key"])
        try:
            secret_key = self._opened("secret_key", row["secret_key"])
        except InvalidInput:
            api_key.wipe()
            raise
        self._ensure_own(row["user_id"], api_key, secret_key)
        return SourceRow(
            where=where,
            id=known_id,
            identity=row["id"],
            user_id=row["user_id"],
            account_id=account_id,
            credential_type=row["credential_type"],
            api_key=api_key,
            secret_key=secret_key,
            is_active=row["is_active"],
            created_at=None if created_at is None else created_at.astimezone(UTC),
            is_wiped=not row["api_key"] and row["api_key"] is not None and not row["secret_key"],
            origin=(row["id"], row["api_key"], row["secret_key"]),
        )

    def _ensure_own(self, user_id: str, api_key: Plaintext, secret_key: Plaintext) -> None:
        """Wipes both, and raises InvalidInput, where an earlier row of another user has one of them."""
        user = self._hashed(user_id.encode())
        for field, key in (("api_key", api_key), ("secret_key", secret_key)):
            if key and self._users.setdefault(self._hashed(key.reveal()), user) != user:
                api_key.wipe()
                secret_key.wipe()
                raise InvalidInput(field, "an earlier row of another user has the same key; look at both")

    def _hashed(self, value: bytes | memoryview) -> bytes:
        return hmac.digest(self._run_key, value, "sha256")[:16]

    def _opened(self, field: str, token: Token) -> Plaintext:
        if not token:
            return Plaintext.allocate(0)
        if not isinstance(token, str | bytes) or len(token) > _MAX_TOKEN:
            raise InvalidInput(field, "is no Fernet token")
        try:
            # bytes: Fernet gives nothing else. It is freed at once, and so wiped where freed memory is.
            return Plaintext(bytearray(self._fernet.decrypt(token)))
        except (InvalidToken, ValueError, TypeError):
            raise InvalidInput(field, "does not open with the Fernet key") from None


async def _connected(stack: AsyncExitStack, url: str) -> Any:
    settings = {"application_name": "vault-credentials import", "timezone": "UTC", **AS_WRITTEN}
    connection = await asyncpg.connect(url, timeout=_SECONDS, server_settings=settings)
    stack.push_async_callback(connection.close)
    return connection


@contextmanager
def _readable() -> Iterator[None]:
    """As `translated_errors`, but what the table's own definition refuses is named after it."""
    with translated_errors():
        try:
            yield
        except _REFUSED:
            raise ConfigurationError(
                "the source's table: a table or column is not there, is of another type, or may not be read or changed"
            ) from None
