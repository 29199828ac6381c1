"""Imports from a table with Fernet-encrypted columns, on a real Postgres; its rows wiped only once they are here."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet

from service.composition import Runtime
from service.errors import ConfigurationError
from service.modules.import_records import Became, ImportReport, Mode, RowResult
from service.postgres.fernet_table import FernetSource, FernetTable, fernet_of
from tests.importing import OLGA, Legacy, counted
from tests.stored import opened, some_user
from tests.support import Stack, canary
from tests.written import Connection

KEY = Fernet.generate_key().decode()
OLD_KEY = Fernet.generate_key().decode()
Imported = tuple[ImportReport, dict[str, RowResult]]


@asynccontextmanager
async def fernet_table(owner_conn: Connection) -> AsyncIterator[FernetTable]:
    """An empty table as the ancestor had it, but for its name: one that nobody must have to quote by hand."""
    name = f'old "{uuid4().hex[:8]}'
    quoted = '"' + name.replace('"', '""') + '"'
    await owner_conn.execute(
        f"CREATE TABLE {quoted} (id uuid PRIMARY KEY, user_id text NOT NULL, account_id uuid NOT NULL, "
        "credential_type text NOT NULL, encrypted_api_key text NOT NULL, encrypted_secret_key text NOT NULL, "
        "is_active boolean NOT NULL DEFAULT true, created_at timestamp NOT NULL DEFAULT now())"
    )
    yield FernetTable(table=name)
    await owner_conn.execute(f"DROP TABLE {quoted}")


@pytest.fixture
async def table(owner_conn: Connection) -> AsyncIterator[FernetTable]:
    async with fernet_table(owner_conn) as made:
        yield made


def quoted(table: FernetTable) -> str:
    return '"' + table.table.replace('"', '""') + '"'


async def fill(conn: Connection, table: FernetTable, rows: Sequence[Legacy], key: str = KEY) -> None:
    fernet = Fernet(key)
    for row in rows:
        await conn.execute(
            f"INSERT INTO {quoted(table)} (id, user_id, account_id, credential_type, encrypted_api_key, "
            "encrypted_secret_key, is_active) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            row.uuid,
            row.user_id,
            row.account_id,
            row.credential_type,
            fernet.encrypt(row.api_key.encode()).decode(),
            fernet.encrypt(row.secret_key.encode()).decode() if row.secret_key else "",
            row.more.get("is_active", True),
        )


@asynccontextmanager
async def source_of(stack: Stack, table: FernetTable, *keys: str) -> AsyncIterator[FernetSource]:
    async with FernetSource.open(stack.owner_url, fernet_of(keys or (KEY,)), table) as source:
        yield source


async def import_table(
    stack: Stack, runtime: Runtime, table: FernetTable, *keys: str, wipes: bool = False, mode: Mode = Mode.IMPORT
) -> Imported:
    results: dict[str, RowResult] = {}
    async with source_of(stack, table, *keys) as source:
        report = await runtime.importer.run(
            OLGA,
            source,
            mode,
            told=lambda result: results.update({result.where: result}),
            wipe=source.wipe if wipes else None,
        )
        assert report.stopped_by or source.position == source.total
    return report, results


async def problem_of(stack: Stack, runtime: Runtime, table: FernetTable) -> str:
    """What ends the import of a table, before its first row."""
    try:
        report, results = await import_table(stack, runtime, table)
    except ConfigurationError as error:
        return str(error)
    assert isinstance(report.stopped_by, ConfigurationError)
    assert not results
    return str(report.stopped_by)


async def kept(conn: Connection, table: FernetTable) -> dict[str, bool]:
    """Which rows still have both keys."""
    rows = await conn.fetch(
        f"SELECT id, encrypted_api_key <> '' AND encrypted_secret_key <> '' AS kept, "
        f"encrypted_api_key = '' AND encrypted_secret_key = '' AS gone FROM {quoted(table)}"
    )
    assert all(row["kept"] != row["gone"] for row in rows)
    return {str(row["id"]): row["kept"] for row in rows}


async def test_rows_are_imported_with_their_ids_and_states_and_the_table_is_left_alone(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    user = some_user()
    rows = [Legacy(user), Legacy(user, "polygon", secret_key=""), Legacy(user, more={"is_active": False})]
    rows[1].account_id, rows[1].credential_type = rows[0].account_id, "polygon"
    older = Legacy(user)
    await fill(owner_conn, table, rows)
    await fill(owner_conn, table, [older], OLD_KEY)
    before = await owner_conn.fetch(f"SELECT * FROM {quoted(table)} ORDER BY id")
    report, _ = await import_table(stack, runtime, table, KEY, OLD_KEY)
    assert counted(report) == {Became.IMPORTED: 4}
    for row in (rows[0], rows[1], older):
        assert await opened(runtime, row.uuid, user) == (row.api_key, row.secret_key)
    found = await owner_conn.fetch("SELECT is_active, created_at FROM credentials WHERE id = $1", rows[2].uuid)
    theirs = next(each["created_at"] for each in before if each["id"] == rows[2].uuid)
    assert [(each["is_active"], each["created_at"].replace(tzinfo=None)) for each in found] == [(False, theirs)]
    assert await owner_conn.fetch(f"SELECT * FROM {quoted(table)} ORDER BY id") == before


async def test_rows_are_wiped_once_they_were_compared_and_no_others(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    good, differs, wrong = Legacy(), Legacy(), Legacy(api_key="é")
    await fill(owner_conn, table, [differs])
    await import_table(stack, runtime, table)
    await owner_conn.execute(f"DELETE FROM {quoted(table)}")
    changed = replace(differs, api_key=canary())
    await fill(owner_conn, table, [good, changed, wrong])
    report, results = await import_table(stack, runtime, table, wipes=True)
    assert counted(report) == {Became.IMPORTED: 1, Became.DIFFERS: 1, Became.REFUSED: 1}
    assert report.wiped_now == 1
    assert await kept(owner_conn, table) == {str(good.id): False, str(changed.id): True, str(wrong.id): True}
    again, results = await import_table(stack, runtime, table, wipes=True)
    assert counted(again) == {Became.WIPED: 1, Became.DIFFERS: 1, Became.REFUSED: 1}
    assert results[f"id {good.id}"].became is Became.WIPED
    assert await opened(runtime, good.uuid, good.user_id) == (good.api_key, good.secret_key)


async def test_an_empty_row_that_is_not_here_is_no_wiped_one(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    row = Legacy()
    await fill(owner_conn, table, [row])
    await owner_conn.execute(f"UPDATE {quoted(table)} SET encrypted_api_key = '', encrypted_secret_key = ''")
    report, results = await import_table(stack, runtime, table, wipes=True)
    assert counted(report) == {Became.REFUSED: 1}
    assert results[f"id {row.id}"].problem == "api_key: must not be empty"


async def test_a_row_that_is_changed_meanwhile_is_not_wiped(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    row = Legacy()
    await fill(owner_conn, table, [row])
    results: dict[str, RowResult] = {}
    async with source_of(stack, table) as source:

        async def wipe(read: object) -> bool:
            await owner_conn.execute(f"UPDATE {quoted(table)} SET encrypted_api_key = 'newer'")
            return await source.wipe(read)  # type: ignore[arg-type]  # the row that the importer hands over

        await runtime.importer.run(
            OLGA, source, Mode.IMPORT, wipe=wipe, told=lambda result: results.update({result.where: result})
        )
    (result,) = results.values()
    assert result.became is Became.FAILED
    assert "was changed meanwhile" in str(result.problem)
    assert await kept(owner_conn, table) == {str(row.id): True}


async def test_a_source_that_refuses_the_wipe_ends_the_run_with_what_was_done(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    rows = [Legacy() for _ in range(5)]
    await fill(owner_conn, table, rows)
    results: dict[str, RowResult] = {}
    problem = ConfigurationError("the source's table: may not be changed")
    async with source_of(stack, table) as source:
        report = await runtime.importer.run(
            OLGA,
            source,
            Mode.IMPORT,
            wipe=AsyncMock(side_effect=problem),
            told=lambda result: results.update({result.where: result}),
        )
    assert (report.stopped_by, report.has_begun, report.wiped_now) == (problem, True, 0)
    assert counted(report) == {Became.FAILED: 1, Became.IMPORTED: 4}
    (failed,) = [each for each in results.values() if each.became is Became.FAILED]
    assert failed.problem == "is here and was compared; it could not be wiped in the source"
    for row in rows:
        assert await opened(runtime, row.uuid, row.user_id) == (row.api_key, row.secret_key)


async def test_a_verification_wipes_what_it_has_compared(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    here, missing = Legacy(), Legacy()
    await fill(owner_conn, table, [here])
    await import_table(stack, runtime, table)
    await fill(owner_conn, table, [missing])
    report, _ = await import_table(stack, runtime, table, wipes=True, mode=Mode.VERIFY)
    assert counted(report) == {Became.PRESENT: 1, Became.MISSING: 1}
    assert await kept(owner_conn, table) == {str(here.id): False, str(missing.id): True}


async def test_what_does_not_open_with_the_key_is_refused_alone_and_shown_by_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    good, other_key, garbage, half = Legacy(), Legacy(), Legacy(), Legacy()
    await fill(owner_conn, table, [good, garbage, half])
    await fill(owner_conn, table, [other_key], OLD_KEY)
    secret = canary("CANARY")
    set_key = f"UPDATE {quoted(table)} SET encrypted_api_key = $2 WHERE id = $1"
    await owner_conn.execute(set_key, garbage.uuid, secret)
    await owner_conn.execute(set_key.replace("api_key", "secret_key"), half.uuid, secret + "é")
    report, results = await import_table(stack, runtime, table)
    assert counted(report) == {Became.IMPORTED: 1, Became.REFUSED: 3}
    does_not = "does not open with the Fernet key"
    told = {row.id: results[f"id {row.id}"].problem for row in (other_key, garbage, half)}
    assert told == {
        other_key.id: f"api_key: {does_not}",
        garbage.id: f"api_key: {does_not}",
        half.id: f"secret_key: {does_not}",
    }
    assert secret not in repr(results)


async def test_a_table_that_does_not_fit_is_said_before_anything_is_stored(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    row = Legacy()
    await fill(owner_conn, table, [row])
    for wrong in ({"table": "no such"}, {"id": "no such"}, {"api_key": "no such"}, {"is_active": "user_id"}):
        assert (await problem_of(stack, runtime, replace(table, **wrong))).startswith("the source's table: ")
    twice = replace(table, id="credential_type")
    await fill(owner_conn, table, [Legacy()])
    with pytest.raises(ConfigurationError, match="has an id twice"):
        await import_table(stack, runtime, twice)
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE user_id = $1", row.user_id) == 0


async def test_a_name_of_a_table_or_column_is_never_sql(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    await fill(owner_conn, table, [Legacy()])
    attack = f'user_id"; DROP TABLE {quoted(table)}; --'
    for wrong in ({"user_id": attack}, {"id": attack}, {"schema": attack}, {"table": attack}, {"secret_key": attack}):
        assert await problem_of(stack, runtime, replace(table, **wrong))
    literal = replace(table, credential_type=None, only_type="'; DROP TABLE credentials; --")
    report, _ = await import_table(stack, runtime, literal)
    assert counted(report) == {Became.REFUSED: 1}
    assert len(await kept(owner_conn, table)) == 1


@pytest.mark.parametrize("keys", [[], [""], ["x"], [KEY, "x"], ["é"], [KEY[:-2]]])
def test_a_fernet_key_that_is_none_is_refused_and_not_shown(keys: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        fernet_of(keys)
    assert str(refused.value) == "the Fernet key is none: it is 32 bytes in URL-safe base64"


async def test_a_database_that_cannot_be_had_is_said_without_its_url() -> None:
    password = canary()
    with pytest.raises(ConfigurationError) as refused:
        async with FernetSource.open(
            f"postgresql://u:{password}@127.0.0.1:1/d", fernet_of([KEY]), FernetTable(table="t")
        ):
            pytest.fail("it was opened")
    assert str(refused.value) == "IMPORT_DATABASE_URL: can't be connected to"
    assert refused.value.__cause__ is None
