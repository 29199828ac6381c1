"""An import never brings an id back that a deleted credential had, and harms nobody who writes to the same path."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.composition import Runtime
from service.errors import CredentialUnreadable
from service.modules.import_records import Became, Mode, SourceRow
from service.modules.records import IdPast, WriteIntent
from service.postgres.credential_store import PostgresCredentialStore
from service.postgres.pool import Database
from service.postgres.reconciliation_store import PostgresReconciliationStore
from tests.importing import Legacy, counted, import_file, json_lines_file, read
from tests.port_hooks import Gate, hooked_runtime
from tests.stored import opened, owner, store
from tests.support import Stack
from tests.written import Connection, assert_agree, live_versions


@pytest.fixture(params=[False, True], ids=["one by one", "bulk"])
async def importing(stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[Runtime]:
    async with Runtime.open(stack.settings(), bulk=request.param) as made:
        yield made


async def stored(conn: Connection, credential_id: UUID) -> int:
    return int(await conn.fetchval("SELECT count(*) FROM credentials WHERE id = $1", credential_id))


def is_there(stack: Stack, path: str) -> bool:
    return bool(stack.vault("GET", f"credentials/metadata/{path}").is_success)


async def begun(conn: Connection, row: Legacy, kv_version: int | None, due: str) -> UUID:
    """An intent of somebody else for the row's path."""
    made = uuid4()
    await conn.execute(
        "INSERT INTO write_intents (id, credential_id, kv_path, kv_version, due_at)"
        " VALUES ($1, $2, $3, $4, now() + $5::text::interval)",
        made,
        row.uuid,
        f"{row.account_id}/{row.id}",
        kv_version,
        due,
    )
    return made


async def test_what_its_owner_deleted_is_not_stored_again_by_any_run(
    importing: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    kept, made, fine = Legacy(), Legacy(id=None), Legacy()
    path = json_lines_file(tmp_path, [kept, made, fine])
    await import_file(importing, path)
    ids = [row.credential_id for row in await read(path) if isinstance(row, SourceRow)]
    for row, credential_id in ((kept, ids[0]), (made, ids[1])):
        await importing.writer.delete(owner(row.user_id), credential_id, if_match=None)
    for mode in Mode:
        report, results = await import_file(importing, path, mode)
        assert counted(report) == {Became.DELETED: 2, Became.PRESENT: 1}
        assert not report.is_complete
        assert results["line 1"].problem == "was deleted here; to be stored anew, the row needs another id"
    assert [await stored(owner_conn, each) for each in ids] == [0, 0, 1]
    denied = (
        "SELECT count(*) FROM credential_events WHERE credential_id = $1 AND action = 'import' AND outcome = 'denied'"
    )
    assert await owner_conn.fetchval(denied, ids[0]) == len(Mode)


async def test_what_is_deleted_while_it_is_written_is_not_stored_and_the_others_with_it_are(
    stack: Stack, importing: Runtime, owner_conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, fine = Legacy(), Legacy()
    await import_file(importing, json_lines_file(tmp_path, [row]))
    await importing.writer.delete(owner(row.user_id), row.uuid, if_match=None)
    past_ids: Any = importing.importer._rows._past_ids
    real, too_early = past_ids.of, [IdPast.UNKNOWN]

    async def of(credential_id: UUID) -> IdPast:
        return too_early.pop() if credential_id == row.uuid and too_early else await real(credential_id)

    monkeypatch.setattr(past_ids, "of", of)
    report, _ = await import_file(importing, json_lines_file(tmp_path, [row, fine]))
    assert not too_early
    assert counted(report) == {Became.DELETED: 1, Became.IMPORTED: 1}
    assert await stored(owner_conn, row.uuid) == 0
    assert not is_there(stack, f"{row.account_id}/{row.id}")
    assert await owner_conn.fetchval("SELECT count(*) FROM write_intents WHERE credential_id = $1", row.uuid) == 0
    assert await opened(importing, fine.uuid, fine.user_id) == (fine.api_key, fine.secret_key)


async def test_nothing_is_written_to_a_path_that_is_still_to_be_deleted(
    stack: Stack, importing: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    row = Legacy()
    path = json_lines_file(tmp_path, [row])
    intent = await begun(owner_conn, row, None, "1 hour")
    report, results = await import_file(importing, path)
    assert counted(report) == {Became.FAILED: 1}
    assert results["line 1"].problem == "is being deleted here; run it again later"
    assert not is_there(stack, f"{row.account_id}/{row.id}")
    await owner_conn.execute("DELETE FROM write_intents WHERE id = $1", intent)
    report, _ = await import_file(importing, path)
    assert counted(report) == {Became.IMPORTED: 1}


async def test_an_import_that_takes_its_write_back_leaves_another_ones_alone(
    stack: Stack, owner_conn: Connection, tmp_path: Path
) -> None:
    """Both write to one new path; the first is told that its key version was retired."""
    row = Legacy()
    path = json_lines_file(tmp_path, [row])
    begun_first, written, taken_back = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with Runtime.open(stack.settings()) as one, Runtime.open(stack.settings()) as other:
        stores: list[Any] = [one.writer._store, other.writer._store]
        first, second = [each.insert for each in stores]

        async def below_the_floor(*given: Any, **named: Any) -> Any:
            if not begun_first.is_set():
                begun_first.set()
                await asyncio.wait_for(written.wait(), 60)
                return None
            taken_back.set()
            return await first(*given, **named)

        async def slow(*given: Any, **named: Any) -> Any:
            written.set()
            await asyncio.wait_for(taken_back.wait(), 60)
            return await second(*given, **named)

        stores[0].insert, stores[1].insert = below_the_floor, slow
        unlucky = asyncio.create_task(import_file(one, path))
        await asyncio.wait_for(begun_first.wait(), 60)
        reports = await asyncio.gather(unlucky, import_file(other, path))
    assert all(report.is_complete for report, _ in reports), reports
    async with Runtime.open(stack.settings()) as fresh:
        assert await opened(fresh, row.uuid, row.user_id) == (row.api_key, row.secret_key)
    await assert_agree(stack, owner_conn, row.uuid)


async def test_what_a_killed_import_left_is_reconciled_without_harm_to_the_one_that_follows(
    stack: Stack, runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    """The dead one's intent is for the very version that the other is about to commit."""
    row = Legacy()
    await begun(owner_conn, row, 1, "-1 second")
    gate = Gate("before", "store.insert")
    async with hooked_runtime(stack.settings(), gate) as importing:
        task = asyncio.create_task(import_file(importing, json_lines_file(tmp_path, [row])))
        await gate.wait_for(task)
        await runtime.reconciler.run(apply=True)
        gate.opened.set()
        report, _ = await task
    assert counted(report) == {Became.IMPORTED: 1}
    assert live_versions(stack, f"{row.account_id}/{row.id}") == {1}
    assert await opened(runtime, row.uuid, row.user_id) == (row.api_key, row.secret_key)


async def test_a_write_waits_for_whoever_settles_another_of_its_path_and_is_seen_after_that(
    stack: Stack, owner_conn: Connection
) -> None:
    row = Legacy()
    path = f"{row.account_id}/{row.id}"
    theirs = WriteIntent(
        id=await begun(owner_conn, row, 1, "1 hour"), credential_id=row.uuid, kv_path=path, kv_version=1
    )
    ours = replace(theirs, id=uuid4(), id_was_given=True)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%kv_path = ANY%'"
    async with Database.open(stack.settings()) as database:
        intents = PostgresReconciliationStore(database, stack.settings())
        writes = PostgresCredentialStore(database, stack.settings())
        async with intents.hold_intent(theirs) as held:
            assert held is not None
            assert held.alone
            writing = asyncio.create_task(writes.begin_write(ours))
            async with asyncio.timeout(60):
                while not await owner_conn.fetchval(waiting):
                    assert not writing.done(), "it did not wait"
                    await asyncio.sleep(0.01)
        await writing
        again = replace(theirs, id=await begun(owner_conn, row, 1, "1 hour"))
        async with intents.hold_intent(again) as held:
            assert held is not None
            assert (held.alone, held.shared) == (False, True)
    await owner_conn.execute("DELETE FROM write_intents WHERE credential_id = $1", row.uuid)


async def test_a_cached_ciphertext_that_does_not_decrypt_is_not_kept(runtime: Runtime, owner_conn: Connection) -> None:
    made = await store(runtime)
    await opened(runtime, made.id, made.user_id)
    cache = runtime.opener._batches._ciphertexts
    assert cache.held(made.path, 1) is not None
    before = await owner_conn.fetchval("SELECT binding FROM credentials WHERE id = $1", made.id)
    await owner_conn.execute("UPDATE credentials SET binding = sha256(binding) WHERE id = $1", made.id)
    with pytest.raises(CredentialUnreadable):
        await opened(runtime, made.id, made.user_id)
    assert cache.held(made.path, 1) is None
    await owner_conn.execute("UPDATE credentials SET binding = $2 WHERE id = $1", made.id, before)
    assert await opened(runtime, made.id, made.user_id) == made.keys
