"""Invariant 5, the record: the service's own Postgres role adds events and can change, remove or hide none."""

import asyncpg
import pytest

from service.composition import Runtime
from tests.stored import Stored, store
from tests.written import Connection

REFUSED = asyncpg.InsufficientPrivilegeError


@pytest.fixture
async def stored(runtime: Runtime) -> Stored:
    return await store(runtime)


@pytest.fixture
async def tables(owner_conn: Connection) -> list[str]:
    """The events' table and each of its partitions: a right on one of these would do as well."""
    rows = await owner_conn.fetch("SELECT relid::regclass::text AS name FROM pg_partition_tree('credential_events')")
    names = [row["name"] for row in rows]
    assert len(names) > 2
    return names


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT id FROM {} LIMIT 1",
        "SELECT FROM {} FOR UPDATE",
        "UPDATE {} SET outcome = 'denied'",
        "UPDATE {} SET reason = NULL WHERE false",
        "DELETE FROM {} WHERE false",
        "TRUNCATE {}",
        "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
        "ALTER TABLE {} DISABLE TRIGGER ALL",
        "ALTER TABLE {} ADD COLUMN note text",
        "ALTER TABLE {} OWNER TO CURRENT_USER",
        "ALTER TABLE {} ENABLE ROW LEVEL SECURITY",
        "DROP TABLE {}",
        "CREATE TRIGGER t BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE r AS ON INSERT TO {} DO INSTEAD NOTHING",
        "CREATE INDEX ON {} (actor)",
        "GRANT SELECT ON {} TO CURRENT_USER",
        "COPY {} TO STDOUT",
    ],
)
async def test_the_runtimes_role_cannot(runtime_conn: Connection, tables: list[str], statement: str) -> None:
    for table in tables:
        async with _undone(runtime_conn):
            if statement.startswith("GRANT"):
                await _grants_nothing(runtime_conn, statement.format(table))
                continue
            with pytest.raises(REFUSED):
                await runtime_conn.execute(statement.format(table))


async def test_the_runtimes_role_can_add_events_and_nowhere_but_through_the_table_itself(
    runtime_conn: Connection, tables: list[str]
) -> None:
    adding = "INSERT INTO {} (acting_user, actor, action, outcome) VALUES ('a', 'b', 'open', 'denied')"
    for table in tables:
        async with _undone(runtime_conn):
            if table == "credential_events":
                await runtime_conn.execute(adding.format(table))
            else:
                with pytest.raises(REFUSED):
                    await runtime_conn.execute(adding.format(table))


async def test_an_events_time_is_given_by_the_database(runtime_conn: Connection) -> None:
    with pytest.raises(REFUSED):
        await runtime_conn.execute(
            "INSERT INTO credential_events (at, acting_user, actor, action, outcome) "
            "VALUES ('2001-01-01', 'a', 'b', 'c', 'done')"
        )


async def test_an_events_number_is_given_by_the_database(runtime_conn: Connection) -> None:
    with pytest.raises((asyncpg.GeneratedAlwaysError, asyncpg.InsufficientPrivilegeError)):
        await runtime_conn.execute(
            "INSERT INTO credential_events (id, acting_user, actor, action, outcome) VALUES (1, 'a', 'b', 'c', 'done')"
        )


async def test_reading_events_takes_the_auditors_role_which_can_add_and_change_nothing(
    runtime_conn: Connection, stored: Stored
) -> None:
    async with runtime_conn.transaction():
        await runtime_conn.execute("SET LOCAL ROLE credentials_auditor")
        count = "SELECT count(*) FROM credential_events WHERE acting_user = $1"
        assert await runtime_conn.fetchval(count, stored.user_id) == 1
    for statement in (
        "INSERT INTO credential_events (acting_user, actor, action, outcome) VALUES ('a', 'b', 'c', 'denied')",
        "UPDATE credential_events SET outcome = 'denied'",
        "DELETE FROM credential_events",
        "UPDATE credentials SET user_id = 'mallory'",
        "SELECT * FROM idempotency_keys",
    ):
        async with _undone(runtime_conn):
            await runtime_conn.execute("SET LOCAL ROLE credentials_auditor")
            with pytest.raises(REFUSED):
                await runtime_conn.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (x int)",
        "CREATE SCHEMA more",
        "CREATE VIEW more AS SELECT 1",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE ROLE more",
        "CREATE DATABASE more",
        "ALTER TABLE credentials DROP COLUMN binding",
        "ALTER TABLE credentials DISABLE TRIGGER ALL",
        "DROP TABLE credentials",
        "TRUNCATE credentials",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "SET ROLE credentials_rotator",
        "SET session_replication_role = replica",
        "UPDATE key_floors SET min_version = 1",
        "INSERT INTO key_floors (transit_key) VALUES ('x')",
        "INSERT INTO key_versions VALUES ('x', 1, now())",
        "UPDATE key_versions SET created_at = now()",
        "DELETE FROM key_versions",
        "UPDATE installation SET id = gen_random_uuid()",
        "DELETE FROM schema_migrations",
        "SELECT ensure_event_partitions(1)",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY credentials TO PROGRAM 'true'",
        "ALTER SYSTEM SET fsync = off",
    ],
)
async def test_the_runtimes_role_has_no_other_power(runtime_conn: Connection, statement: str) -> None:
    if statement.startswith("CREATE DATABASE") or statement.startswith("ALTER SYSTEM"):
        with pytest.raises(REFUSED):  # neither can be in a transaction, nor has to be: they are refused
            await runtime_conn.execute(statement)
        return
    async with _undone(runtime_conn):
        with pytest.raises(REFUSED):
            await runtime_conn.execute(statement)


async def test_the_runtimes_role_owns_nothing_and_is_nothing_special(
    runtime_conn: Connection, owner_conn: Connection
) -> None:
    user = await runtime_conn.fetchval("SELECT current_user")
    owned = (
        "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE pg_has_role($1, r.oid, 'MEMBER')"
    )
    assert await owner_conn.fetchval(owned, user) == 0
    special = "rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
    reachable = f"SELECT rolname FROM pg_roles WHERE pg_has_role($1, oid, 'MEMBER') AND ({special})"
    assert await owner_conn.fetch(reachable, user) == []
    roles = await owner_conn.fetch("SELECT rolname FROM pg_roles WHERE pg_has_role($1, oid, 'MEMBER')", user)
    assert {row["rolname"] for row in roles} == {user, "credentials_runtime", "credentials_auditor"}


async def test_what_the_runtime_is_refused_its_owner_is_not(owner_conn: Connection, tables: list[str]) -> None:
    """The refusals above are the role's and not the statements'."""
    for table in tables:
        async with _undone(owner_conn):
            await owner_conn.execute(f"SELECT id FROM {table} LIMIT 1")
            await owner_conn.execute(f"DELETE FROM {table} WHERE false")
            await owner_conn.execute(f"UPDATE {table} SET reason = NULL WHERE false")


class _undone:  # noqa: N801 - used as a statement
    """A transaction that is always rolled back, so that a statement that should have been refused does no harm."""

    def __init__(self, conn: Connection) -> None:
        self._transaction = conn.transaction()

    async def __aenter__(self) -> None:
        await self._transaction.start()

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()


async def _grants_nothing(conn: Connection, statement: str) -> None:
    """Postgres answers a grant by somebody who holds no grant option with a warning, or refuses it."""
    try:
        await conn.execute(statement)
    except REFUSED:
        return
    table = statement.split()[3]
    assert not await conn.fetchval("SELECT has_table_privilege($1, 'SELECT')", table)
