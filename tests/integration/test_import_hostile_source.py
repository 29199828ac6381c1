"""Sources that somebody has tampered with, and operators who ask by way of an import: refused, said, recorded."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.commands import import_credentials
from service.composition import Runtime
from service.errors import ConfigurationError
from service.modules.import_records import Became, Mode
from service.modules.records import ImportAccess
from service.postgres.fernet_table import FernetSource, FernetTable
from tests.importing import Legacy, counted, import_file, json_lines_file, private_file
from tests.integration.test_import_fernet import KEY, fernet_table, fill, import_table, quoted
from tests.stored import opened, owner, store
from tests.support import Stack, canary
from tests.written import Connection


@pytest.fixture
async def table(owner_conn: Connection) -> AsyncIterator[FernetTable]:
    async with fernet_table(owner_conn) as made:
        yield made


@pytest.mark.parametrize("mode", [Mode.IMPORT, Mode.VERIFY])
async def test_a_row_that_is_wiped_in_the_source_is_complete_only_if_it_opens_here(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable, mode: Mode
) -> None:
    lost, fine = Legacy(), Legacy()
    await fill(owner_conn, table, [lost, fine])
    await import_table(stack, runtime, table, wipes=True)
    there = await runtime.reader.get(owner(lost.user_id), lost.uuid)
    await runtime.writer._ciphertexts.destroy(there.reference.kv_path, 1)
    async with Runtime.open(stack.settings()) as fresh:
        report, results = await import_table(stack, fresh, table, mode=mode)
    assert counted(report) == {Became.FAILED: 1, Became.WIPED: 1}
    assert results[f"id {lost.id}"].problem == "wiped in the source, and does not open here"
    assert not report.is_complete
    granted = (
        "SELECT count(*) FROM credential_events WHERE credential_id = $1 AND action = 'import' AND outcome = 'granted'"
    )
    assert await owner_conn.fetchval(granted, fine.uuid) == 2


@pytest.mark.parametrize("copied", ["both", "encrypted_api_key", "encrypted_secret_key"])
async def test_a_ciphertext_that_is_copied_to_another_users_row_is_not_imported(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable, copied: str
) -> None:
    alice, mallory = Legacy(), Legacy()
    also = Legacy(alice.user_id, api_key=alice.api_key, secret_key=alice.secret_key)  # her own, twice, is fine
    await fill(owner_conn, table, [alice])
    await fill(owner_conn, table, [mallory])
    await fill(owner_conn, table, [also])
    columns = ["encrypted_api_key", "encrypted_secret_key"] if copied == "both" else [copied]
    sets = ", ".join(f"{column} = a.{column}" for column in columns)
    await owner_conn.execute(
        f"UPDATE {quoted(table)} m SET {sets} FROM {quoted(table)} a WHERE a.id = $1 AND m.id = $2",
        alice.uuid,
        mallory.uuid,
    )
    report, results = await import_table(stack, runtime, table)
    assert counted(report) == {Became.IMPORTED: 2, Became.REFUSED: 1}
    assert str(results[f"id {mallory.id}"].problem).endswith(
        "an earlier row of another user has the same key; look at both"
    )
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE user_id = $1", mallory.user_id) == 0


async def test_a_row_of_an_impossible_date_is_refused_alone(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable
) -> None:
    impossible = {"0044-03-15 BC": Legacy(), "infinity": Legacy(), "-infinity": Legacy(), "20000-01-01": Legacy()}
    good, oldest = Legacy(), Legacy()
    await fill(owner_conn, table, [*impossible.values(), good, oldest])
    for when, row in [*impossible.items(), ("0001-01-02", oldest)]:
        await owner_conn.execute(f"UPDATE {quoted(table)} SET created_at = '{when}' WHERE id = $1", row.uuid)
    report, results = await import_table(stack, runtime, table)
    assert counted(report) == {Became.IMPORTED: 2, Became.REFUSED: 4}
    assert {results[f"id {row.id}"].problem for row in impossible.values()} == {
        "created_at: must be in the years 1 to 9999"
    }
    assert await opened(runtime, good.uuid, good.user_id) == (good.api_key, good.secret_key)


async def test_an_id_that_becomes_null_meanwhile_is_refused_alone(
    stack: Stack, runtime: Runtime, owner_conn: Connection, table: FernetTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = Legacy(), Legacy()
    await fill(owner_conn, table, [bad, good])
    await owner_conn.execute(f'ALTER TABLE {quoted(table)} DROP CONSTRAINT {quoted(table)[:-1]}_pkey"')
    await owner_conn.execute(f"ALTER TABLE {quoted(table)} ALTER COLUMN id DROP NOT NULL")
    count = FernetSource._count

    async def then_changed(source: Any) -> None:
        await count(source)
        await owner_conn.execute(f"UPDATE {quoted(table)} SET id = NULL WHERE id = $1", bad.uuid)

    monkeypatch.setattr(FernetSource, "_count", then_changed)
    report, results = await import_table(stack, runtime, table)
    assert counted(report) == {Became.IMPORTED: 1, Became.REFUSED: 1}
    assert [each.problem for each in results.values() if each.became is Became.REFUSED] == ["id: is null"]


@pytest.mark.parametrize("mode", list(Mode))
async def test_whose_an_id_is_cannot_be_asked_without_an_event(
    runtime: Runtime, owner_conn: Connection, tmp_path: Path, mode: Mode
) -> None:
    theirs, moved = await store(runtime), await store(runtime)
    rows = [Legacy(id=str(theirs.id)), Legacy(moved.user_id, id=str(moved.id))]
    run_id = uuid4().hex
    access = ImportAccess(actor="operator:olga", request_id=run_id)
    report, _ = await import_file(runtime, json_lines_file(tmp_path, rows), mode, access)
    assert counted(report) == {Became.REFUSED: 1, Became.DIFFERS: 1}
    events = await owner_conn.fetch(
        "SELECT credential_id, user_id, acting_user, actor, action, outcome, reason FROM credential_events"
        " WHERE request_id = $1 ORDER BY reason DESC",
        run_id,
    )
    denied = ("operator:olga", "import", "denied")
    assert [tuple(each) for each in events] == [
        (theirs.id, theirs.user_id, rows[0].user_id, *denied, "not_owner"),
        (moved.id, moved.user_id, moved.user_id, *denied, "differs"),
    ]


async def test_the_sources_url_and_key_are_not_in_the_environment_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    password, openings = canary(), []
    monkeypatch.setenv("IMPORT_DATABASE_URL", f"postgresql://u:{password}@db.invalid/d")
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.setattr(import_credentials, "_run", lambda opening, *_given, **_named: openings.append(opening))
    key_file = private_file(tmp_path / "key", KEY.encode())
    import_credentials.from_fernet_table(table="t", key_file=key_file, columns=None, credential_type=None)
    with pytest.raises(ConfigurationError):
        async with openings[0]():
            pytest.fail("it was opened")
    assert not [name for name, value in os.environ.items() if password in value]
    told = capsys.readouterr().err
    assert "the way to another machine is not protected without sslmode=verify-full" in told
    assert password not in told
