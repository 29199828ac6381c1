"""Invariant 8, the controls in Postgres: each role does with suspensions and suspects what its job is, and no more."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from service.postgres.queries import SQL
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection

REFUSED = asyncpg.InsufficientPrivilegeError

# What may be done, as whom. `$1` is a new user's name, so that an allowed statement concerns nobody.
STATEMENTS = {
    "see who is suspended": "SELECT * FROM suspensions WHERE user_id = $1",
    "suspend": "INSERT INTO suspensions (user_id, reason, suspended_by) VALUES ($1, 'x', 'y')",
    "suspend since another time": "INSERT INTO suspensions (user_id, suspended_by, suspended_at)"
    " VALUES ($1, 'y', '2001-01-01')",
    "suspend under a chosen id": f"INSERT INTO suspensions (id, user_id, suspended_by) VALUES ('{uuid4()}', $1, 'y')",
    "change a suspension": "UPDATE suspensions SET user_id = 'somebody else' WHERE user_id = $1",
    "lift": "DELETE FROM suspensions WHERE user_id = $1",
    "see suspects": "SELECT suspect_since FROM credentials WHERE user_id = $1",
    "clear a suspect": "UPDATE credentials SET suspect_since = NULL WHERE user_id = $1",
    "disable": "UPDATE credentials SET is_active = false WHERE user_id = $1",
    "see turns": "SELECT * FROM suspect_turns WHERE credential_type = $1",
    "add a turn": "INSERT INTO suspect_turns (credential_type, credential_id, user_id, at)"
    " SELECT $1, gen_random_uuid(), 'u', now()",
    "change a turn": "UPDATE suspect_turns SET at = now() WHERE credential_type = $1",
    "forget turns": "DELETE FROM suspect_turns WHERE credential_type = $1",
}
ALLOWED = {
    "credentials_runtime": set(STATEMENTS)
    - {"suspend since another time", "suspend under a chosen id", "change a suspension", "change a turn"},
    "credentials_auditor": {"see who is suspended", "see suspects"},
    "credentials_rotator": {"see suspects"},
}
CELLS = [(role, name) for role in ALLOWED for name in STATEMENTS]


@pytest.fixture
async def rotator_conn(stack: Stack) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(stack.rotator_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize(("role", "name"), CELLS)
async def test_each_role_may_what_is_written_here_and_nothing_else(
    role: str, name: str, runtime_conn: Connection, rotator_conn: Connection
) -> None:
    conn = rotator_conn if role == "credentials_rotator" else runtime_conn
    transaction = conn.transaction()
    await transaction.start()
    try:
        if role == "credentials_auditor":
            await conn.execute("SET LOCAL ROLE credentials_auditor")
        if name in ALLOWED[role]:
            await conn.execute(STATEMENTS[name], some_user())
        else:
            with pytest.raises(REFUSED):
                await conn.execute(STATEMENTS[name], some_user())
    finally:
        await transaction.rollback()


@pytest.mark.parametrize(
    "values",
    ["NULL, NULL", "'alice', gen_random_uuid()", "'', NULL", "repeat('x', 1025), NULL"],
)
async def test_a_suspension_is_of_one_user_or_of_one_account(values: str, runtime_conn: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await runtime_conn.execute(
            f"INSERT INTO suspensions (user_id, account_id, suspended_by) SELECT {values}, 'somebody'"
        )


async def test_a_suspension_outlives_a_crash_whatever_the_server_does_by_default(runtime_conn: Connection) -> None:
    await runtime_conn.execute("SET synchronous_commit = off")
    async with runtime_conn.transaction():
        made = await runtime_conn.fetchrow(SQL["suspend"], some_user(), None, None, "operator:olga", "suspend", None)
        # What the statement sets is in force until its transaction ends, which is this one: at the commit, too.
        assert await runtime_conn.fetchval("SHOW synchronous_commit") == "on"
    assert made is not None
