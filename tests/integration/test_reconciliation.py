"""Reconciliation removes what a crash left and nothing else, whoever it races: writers, callers, itself."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import pytest

from service.composition import Runtime
from service.errors import CredentialNotFound, InstallationMismatch, NothingToRollBack, WriteInterrupted
from service.postgres.migrate import migrate
from tests.conftest import start_stack
from tests.databases import in_database, own_database
from tests.port_hooks import Gate, hooked_runtime
from tests.support import Stack
from tests.written import (
    Connection,
    Somebody,
    add_intent,
    assert_agree,
    leave_an_intent,
    live_versions,
    pair_of_keys,
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own: a service on the shared one may reconcile it in the background."""
    with start_stack(tmp_path_factory.mktemp("reconciliation")) as started:
        yield started


# --- racing writers ---------------------------------------------------------------------------------------------


async def test_a_slow_store_whose_intent_was_taken_is_interrupted_and_leaves_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, gate = Somebody(), Gate("before", "store.insert")
    async with hooked_runtime(stack.settings(), gate) as slow:
        storing = asyncio.create_task(somebody.store(slow, pair_of_keys()))
        await gate.wait_for(storing)
        assert len(somebody.paths(stack)) == 1
        await somebody.make_intents_due(owner_conn)
        assert (await runtime.reconciler.run(apply=True)).removed >= 1
        assert not somebody.paths(stack)
        gate.opened.set()
        with pytest.raises(WriteInterrupted):
            await storing
    assert not await somebody.row_ids(owner_conn)
    assert not somebody.paths(stack)
    assert await somebody.intents(owner_conn) == 0


@pytest.mark.parametrize("held_before", ["ciphertexts.write", "ciphertexts.annotate", "store.replace_secret"])
async def test_a_slow_update_whose_intent_was_taken_is_interrupted_and_the_old_secret_opens(
    stack: Stack, runtime: Runtime, owner_conn: Connection, held_before: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys)
    gate = Gate("before", held_before)
    async with hooked_runtime(stack.settings(), gate) as slow:
        updating = asyncio.create_task(somebody.update(slow, stored.id, *pair_of_keys()))
        await gate.wait_for(updating)
        await somebody.make_intents_due(owner_conn)
        await runtime.reconciler.run(apply=True)
        assert await somebody.opens(runtime, stored.id) == keys
        gate.opened.set()
        with pytest.raises(WriteInterrupted):
            await updating
    assert await somebody.opens(runtime, stored.id) == keys
    assert await somebody.intents(owner_conn) == 0
    await assert_agree(stack, owner_conn, stored.id)


async def test_a_writer_that_commits_while_its_intent_is_held_waits_and_is_interrupted(
    stack: Stack, owner_conn: Connection
) -> None:
    somebody = Somebody()
    before_commit, before_removal = Gate("before", "store.insert"), Gate("before", "ciphertexts.delete")
    async with (
        hooked_runtime(stack.settings(), before_commit) as slow,
        hooked_runtime(stack.settings(), before_removal) as cleaner,
    ):
        storing = asyncio.create_task(somebody.store(slow, pair_of_keys()))
        await before_commit.wait_for(storing)
        await somebody.make_intents_due(owner_conn)
        cleaning = asyncio.create_task(cleaner.reconciler.run(apply=True))
        await before_removal.wait_for(cleaning)
        before_commit.opened.set()
        await asyncio.sleep(0.3)
        assert not storing.done()
        before_removal.opened.set()
        await cleaning
        with pytest.raises(WriteInterrupted):
            await storing
    assert not await somebody.row_ids(owner_conn)
    assert not somebody.paths(stack)


async def test_a_writer_whose_commit_is_under_way_is_passed_by(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys, gate = Somebody(), pair_of_keys(), Gate("before", "store.insert")
    async with hooked_runtime(stack.settings(), gate) as slow:
        storing = asyncio.create_task(somebody.store(slow, keys))
        await gate.wait_for(storing)
        await somebody.make_intents_due(owner_conn)
        async with owner_conn.transaction():
            # The writer's last transaction takes its intent out, and then waits for this row.
            await owner_conn.execute("SELECT FROM key_floors WHERE transit_key = 'credentials-alpaca' FOR UPDATE")
            gate.opened.set()
            await asyncio.sleep(0.3)
            assert not storing.done()
            report = await runtime.reconciler.run(apply=True)
            assert report.held_by_writers >= 1
            assert len(somebody.paths(stack)) == 1
        stored = await storing
    assert await somebody.opens(runtime, stored.id) == keys
    await assert_agree(stack, owner_conn, stored.id)


@pytest.mark.parametrize("ends_with", ["commit", "rollback"])
async def test_a_store_in_a_callers_long_transaction_is_passed_by_until_that_ends(
    stack: Stack, runtime: Runtime, runtime_conn: Connection, owner_conn: Connection, ends_with: str
) -> None:
    somebody, keys, gate = Somebody(), pair_of_keys(), Gate("before", "store.insert")
    transaction = runtime_conn.transaction()
    await transaction.start()
    async with hooked_runtime(stack.settings(), gate) as slow:
        storing = asyncio.create_task(somebody.store(slow, keys, conn=runtime_conn))
        await gate.wait_for(storing)
        await somebody.make_intents_due(owner_conn)
        gate.opened.set()
        stored = await storing
    report = await runtime.reconciler.run(apply=True)
    assert (report.due, report.held_by_writers, report.removed) == (1, 1, 0)
    assert somebody.paths(stack) == {str(stored.id)}
    with pytest.raises(CredentialNotFound):
        await somebody.opens(runtime, stored.id)
    await (transaction.commit() if ends_with == "commit" else transaction.rollback())
    report = await runtime.reconciler.run(apply=True)
    assert await somebody.intents(owner_conn) == 0
    if ends_with == "commit":
        assert report.due == 0
        assert await somebody.opens(runtime, stored.id) == keys
        await assert_agree(stack, owner_conn, stored.id)
    else:
        assert report.removed == 1
        assert not somebody.paths(stack)


async def test_two_reconcilers_at_once_share_the_work(stack: Stack, runtime: Runtime, owner_conn: Connection) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys)
    for _ in range(20):
        await leave_an_intent(stack, owner_conn, somebody)
    async with Runtime.open(stack.settings()) as other:
        reports = await asyncio.gather(runtime.reconciler.run(apply=True), other.reconciler.run(apply=True))
    assert sum(report.removed for report in reports) == 20
    assert sum(report.failed for report in reports) == 0
    assert somebody.paths(stack) == {str(stored.id)}
    assert await somebody.opens(runtime, stored.id) == keys


# --- what it takes, and what it leaves --------------------------------------------------------------------------


async def test_a_dry_run_touches_nothing(stack: Stack, runtime: Runtime, owner_conn: Connection) -> None:
    somebody = Somebody()
    stored = await somebody.store(runtime, pair_of_keys(), idempotency_key="dry-run")
    await somebody.update(runtime, stored.id, *pair_of_keys())
    path = await leave_an_intent(stack, owner_conn, somebody)
    await owner_conn.execute("UPDATE credentials SET previous_expires_at = now() WHERE id = $1", stored.id)
    await owner_conn.execute("UPDATE idempotency_keys SET expires_at = now() WHERE credential_id = $1", stored.id)
    state = "SELECT (SELECT array_agg(t ORDER BY t) FROM {} t)::text"
    tables = ("credentials", "write_intents", "idempotency_keys", "credential_events")
    before = [await owner_conn.fetchval(state.format(table)) for table in tables]
    report = await runtime.reconciler.run(apply=False)
    assert (report.due, report.removed, report.kept) == (1, 0, 0)
    assert [await owner_conn.fetchval(state.format(table)) for table in tables] == before
    assert live_versions(stack, path) == {1}
    assert (await runtime.reconciler.run(apply=True)).removed == 2  # and what the dry run told of can be done


async def test_an_intent_before_its_time_is_left_alone(stack: Stack, runtime: Runtime, owner_conn: Connection) -> None:
    somebody = Somebody()
    path = await leave_an_intent(stack, owner_conn, somebody, due="now() + interval '1 minute'")
    assert (await runtime.reconciler.run(apply=True)).due == 0
    assert live_versions(stack, path) == {1}
    await somebody.make_intents_due(owner_conn)
    await runtime.reconciler.run(apply=True)


async def test_another_installations_vault_is_refused_and_not_touched(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys)
    async with own_database(stack) as name:
        await migrate(in_database(stack.owner_url, name), transit_keys=["credentials-alpaca"])
        elsewhere: Connection = await asyncpg.connect(in_database(stack.owner_url, name))
        # This database's rows would have the path removed: it has no such credential.
        await add_intent(elsewhere, stored.id, stored.reference.kv_path)
        async with Runtime.open(stack.settings(database_url=in_database(stack.runtime_url, name))) as mismatched:
            for work in (mismatched.reconciler.run, mismatched.reconciler.scan):
                for apply in (False, True):
                    with pytest.raises(InstallationMismatch):
                        await work(apply=apply)
            readiness = {check.name: check.ok for check in await mismatched.readiness.check()}
        assert readiness == {"vault": True, "transit": True, "postgres": True, "installation": False, "skew": False}
        assert await elsewhere.fetchval("SELECT count(*) FROM write_intents") == 1
        await elsewhere.close()
    assert await somebody.opens(runtime, stored.id) == keys


@pytest.mark.parametrize("intent_of", ["nobody", "another", "itself"])
async def test_an_intent_whose_path_was_changed_by_hand_is_refused(
    stack: Stack, runtime: Runtime, owner_conn: Connection, intent_of: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    victim = await somebody.store(runtime, keys)
    another = await somebody.store(runtime, pair_of_keys())
    credential_id = {"nobody": uuid4(), "another": another.id, "itself": victim.id}[intent_of]
    path = f"{uuid4()}/{victim.id}" if intent_of == "itself" else victim.reference.kv_path
    await add_intent(owner_conn, credential_id, path)
    try:
        report = await runtime.reconciler.run(apply=True)
        assert (report.failed, report.removed) == (1, 0)
        # It stays, for a person to look at.
        assert await owner_conn.fetchval("SELECT count(*) FROM write_intents WHERE kv_path = $1", path) == 1
    finally:
        await owner_conn.execute("DELETE FROM write_intents WHERE kv_path = $1", path)
    assert await somebody.opens(runtime, victim.id) == keys


async def test_what_a_row_pins_is_not_removed_whatever_an_intent_says(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, old, new = Somebody(), pair_of_keys(), pair_of_keys()
    stored = await somebody.store(runtime, old)
    await somebody.update(runtime, stored.id, *new)
    await add_intent(owner_conn, stored.id, stored.reference.kv_path)  # of the previous version, which is pinned too
    report = await runtime.reconciler.run(apply=True)
    assert (report.kept, report.removed) == (1, 0)
    assert await somebody.opens(runtime, stored.id) == new
    await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    assert await somebody.opens(runtime, stored.id) == old


async def test_previous_secrets_are_removed_when_their_time_has_passed(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, pair_of_keys())
    await somebody.update(runtime, stored.id, *keys)
    await runtime.reconciler.run(apply=True)
    assert live_versions(stack, stored.reference.kv_path) == {1, 2}
    await owner_conn.execute("UPDATE credentials SET previous_expires_at = now() WHERE id = $1", stored.id)
    report = await runtime.reconciler.run(apply=True)
    assert (report.expired_previous, report.removed) == (1, 1)
    assert live_versions(stack, stored.reference.kv_path) == {2}
    assert await somebody.opens(runtime, stored.id) == keys
    await assert_agree(stack, owner_conn, stored.id)
    with pytest.raises(NothingToRollBack):
        await runtime.writer.rollback(somebody.access, stored.id, if_match=None)


async def test_idempotency_keys_are_purged_when_their_time_has_passed(runtime: Runtime, owner_conn: Connection) -> None:
    somebody = Somebody()
    await somebody.store(runtime, pair_of_keys(), idempotency_key="old")
    await somebody.store(runtime, pair_of_keys(), idempotency_key="young")
    await owner_conn.execute(
        "UPDATE idempotency_keys SET expires_at = now() WHERE user_id = $1 AND key = 'old'", somebody.user_id
    )
    assert (await runtime.reconciler.run(apply=True)).purged_idempotency_keys == 1
    left = await owner_conn.fetch("SELECT key FROM idempotency_keys WHERE user_id = $1", somebody.user_id)
    assert [row["key"] for row in left] == ["young"]
