"""Rewrapping: every credential and kept secret to the key's newest version, and nothing that a user sees has changed.

On a stack of this module's own, as keys are rotated here.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from service.composition import Runtime
from service.modules.key_records import JobReason, JobState
from service.postgres.rotation_store import PostgresRewrapBatch
from service.rotator import Rotator
from service.vault.transit_keys import TransitKeyRing
from tests.conftest import start_stack
from tests.evidence import audit_file
from tests.port_hooks import Hook, hooked_rotator
from tests.rotating import (
    ACTOR,
    KEY,
    ask,
    assert_all_open,
    assert_moved,
    assert_reconciled,
    clear,
    do,
    finish,
    newest_version,
    one,
    over,
    rotator_of,
    rows,
    some_credentials,
)
from tests.support import Stack
from tests.written import Connection


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("rewrap")) as started:
        yield started


@pytest.fixture
async def rotator(stack: Stack) -> AsyncIterator[Rotator]:
    async with rotator_of(stack.settings()) as opened:
        yield opened


@pytest.fixture(autouse=True)
async def empty(stack: Stack, owner_conn: Connection) -> None:
    """Each test's credentials are its own: what a job is about is all there is."""
    await clear(stack, owner_conn)


async def test_rewrapping_moves_every_credential_and_kept_secret_and_they_open_as_before(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    kept = await some_credentials(runtime, 12, updated=4)
    before = await rows(owner_conn, kept)
    await do(rotator, owner_conn, "rotate")
    version = newest_version(stack)
    done = await do(rotator, owner_conn, "rewrap")
    assert (done.state, done.reason) == (JobState.DONE, None)
    assert (done.total, done.done, done.failed, done.to_version) == (12, 12, 0, version)
    assert all(row["transit_key_version"] == version - 1 for row in before.values())
    await assert_moved(stack, owner_conn, kept, version)
    await assert_all_open(runtime, kept)
    for each in kept:
        if each.previous is not None:
            await runtime.writer.rollback(each.somebody.access, each.id, if_match=None)
            assert await each.somebody.opens(runtime, each.id) == each.previous
    await assert_reconciled(stack, runtime, owner_conn)


async def test_nothing_that_a_user_sees_changes(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    kept = await some_credentials(runtime, 3, updated=1)
    before = await rows(owner_conn, kept)
    await do(rotator, owner_conn, "rotate")
    await do(rotator, owner_conn, "rewrap")
    moved = {
        "kv_version", "transit_key_version", "previous_kv_version", "previous_transit_key_version", "pinned_at"
    }  # fmt: skip
    for id_, row in (await rows(owner_conn, kept)).items():
        for column, value in row.items():
            if column not in moved:
                assert value == before[id_][column], column
        assert row["pinned_at"] > before[id_]["pinned_at"]


async def test_each_rewrapped_credential_has_an_event_that_says_on_whose_behalf_and_joins_vaults_audit_log(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    kept = await some_credentials(runtime, 3, updated=1)
    await do(rotator, owner_conn, "rotate")
    await do(rotator, owner_conn, "rewrap")
    audited = audit_file(stack).read_text()
    events = await owner_conn.fetch(
        "SELECT * FROM credential_events WHERE action = 'rewrap' AND credential_id = ANY($1)",
        [each.id for each in kept],
    )
    by_id = {event["credential_id"]: event for event in events}
    assert len(events) == len(by_id) == len(kept)
    for each in kept:
        event = by_id[each.id]
        assert (event["actor"], event["acting_user"], event["outcome"]) == (ACTOR, None, "done")
        assert (event["user_id"], event["account_id"]) == (each.somebody.user_id, each.somebody.account_id)
        assert (event["transit_key"], event["transit_key_version"]) == (KEY, newest_version(stack))
        assert event["request_id"] == "request-1"
        assert str(event["batch_id"]) in audited


async def test_what_was_pinned_before_is_kept_for_as_long_as_a_kept_secret_and_then_removed(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    (kept,) = await some_credentials(runtime, 1, updated=1)
    await do(rotator, owner_conn, "rotate")
    await do(rotator, owner_conn, "rewrap")
    discards = await owner_conn.fetch(
        "SELECT kv_version, due_at - now() AS within FROM write_intents WHERE kv_path = $1 ORDER BY kv_version",
        kept.path,
    )
    assert [row["kv_version"] for row in discards] == [1, 2]
    hours = stack.settings().previous_secret_hours
    assert all(hours - 0.1 < row["within"].total_seconds() / 3600 <= hours for row in discards)
    scanned = await runtime.reconciler.scan(apply=False)
    assert (scanned.broken, scanned.unaccounted) == ([], [])
    await assert_reconciled(stack, runtime, owner_conn)
    await assert_all_open(runtime, [kept])


async def test_a_credential_that_does_not_rewrap_fails_alone_and_the_job_says_which(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    kept = await some_credentials(runtime, 8, updated=2)
    rejected, gone, moved_away, whole = kept[2], kept[3], kept[4], [*kept[1:2], *kept[5:]]
    other = await one(owner_conn, "SELECT * FROM credentials WHERE id = $1", kept[5].id)
    taken = stack.vault("GET", f"credentials/data/{kept[5].path}?version={other['kv_version']}").json()
    body = {"data": taken["data"]["data"], "options": {"cas": 1}}
    assert stack.vault("POST", f"credentials/data/{rejected.path}", body).is_success
    await owner_conn.execute("UPDATE credentials SET kv_version = 2 WHERE id = $1", rejected.id)
    assert stack.vault("PUT", f"credentials/destroy/{gone.path}", {"versions": [1]}).is_success
    await owner_conn.execute("UPDATE credentials SET kv_path = $2 WHERE id = $1", moved_away.id, other["kv_path"])
    assert stack.vault("PUT", f"credentials/destroy/{kept[0].path}", {"versions": [1]}).is_success  # its kept secret
    await do(rotator, owner_conn, "rotate")
    done = await do(rotator, owner_conn, "rewrap")
    assert (done.state, done.reason) == (JobState.FAILED, JobReason.SOME_FAILED)
    assert (done.total, done.done, done.failed) == (8, 4, 4)
    failures = await owner_conn.fetch("SELECT * FROM job_failures WHERE job_id = $1", done.id)
    expected = {
        rejected.id: "ciphertext_rejected",
        gone.id: "ciphertext_gone",
        moved_away.id: "reference_mismatch",
        kept[0].id: "previous_ciphertext_gone",
    }
    assert {row["credential_id"]: row["reason"] for row in failures} == expected
    events = await owner_conn.fetch(
        "SELECT credential_id, reason FROM credential_events WHERE action = 'rewrap' AND outcome = 'failed'"
        " AND credential_id = ANY($1)",
        [each.id for each in kept],
    )
    assert {row["credential_id"]: row["reason"] for row in events} == expected
    assert len(events) == 4
    await assert_moved(stack, owner_conn, whole, done.to_version or 0)
    await assert_all_open(runtime, [*whole, kept[0]])
    # The present secret moves, whatever has become of the kept one.
    assert (await rows(owner_conn, kept))[kept[0].id]["transit_key_version"] == done.to_version


async def test_a_job_that_is_asked_to_stop_fails_as_stopped_and_another_goes_on_from_there(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    kept = await some_credentials(runtime, 6)
    async with rotator_of(stack.settings(rewrap_batch=1, rewrap_per_second=1)) as slow:
        await do(slow, owner_conn, "rotate")
        asked = await ask(owner_conn, "rewrap")
        await slow.runner.step()
        await owner_conn.execute("UPDATE jobs SET stop_requested_by = $2 WHERE id = $1", asked, ACTOR)
        stopped = await finish(slow, owner_conn, asked)
    assert (stopped.state, stopped.reason) == (JobState.FAILED, JobReason.STOPPED)
    assert 0 < stopped.done < 6
    event = await one(
        owner_conn,
        "SELECT outcome, reason FROM credential_events WHERE action = 'rewrap' AND credential_id IS NULL"
        " ORDER BY id DESC LIMIT 1",
    )
    assert (event["outcome"], event["reason"]) == ("failed", "stopped")
    await assert_all_open(runtime, kept)
    async with rotator_of(stack.settings()) as rotator:
        done = await do(rotator, owner_conn, "rewrap")
    assert done.done == 6 - stopped.done
    await assert_moved(stack, owner_conn, kept, done.to_version or 0)


async def test_not_more_are_rewrapped_in_a_second_than_the_setting_allows(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    await some_credentials(runtime, 12)
    loop = asyncio.get_running_loop()
    async with rotator_of(stack.settings(rewrap_per_second=4)) as slow:
        await do(slow, owner_conn, "rotate")
        started = loop.time()
        await do(slow, owner_conn, "rewrap")
    # The last batches of the two that are side by side need not be waited out.
    assert loop.time() - started > (12 - 2 * 4) / 4


async def test_two_workers_share_a_job_and_no_row_is_done_twice(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    kept = await some_credentials(runtime, 30)
    settings = stack.settings(rewrap_batch=2)
    written = [0, 0]

    def counting(worker: int) -> Hook:
        async def hook(when: str, step: str) -> None:
            written[worker] += (when, step) == ("after", "ciphertexts.write")

        return hook

    async with hooked_rotator(settings, counting(0)) as first, hooked_rotator(settings, counting(1)) as second:
        await do(first, owner_conn, "rotate")
        asked = await ask(owner_conn, "rewrap")
        workers = [asyncio.create_task(each.run()) for each in (first, second)]
        done = await over(owner_conn, asked)
        first.stop()
        second.stop()
        await asyncio.gather(*workers)
    assert (done.state, done.done, done.failed) == (JobState.DONE, 30, 0)
    assert min(written) > 0
    assert sum(written) == 30
    events = await owner_conn.fetchval(
        "SELECT count(*) FROM credential_events WHERE action = 'rewrap' AND credential_id = ANY($1)",
        [each.id for each in kept],
    )
    assert events == 30
    assert {row["kv_version"] for row in (await rows(owner_conn, kept)).values()} == {2}
    await assert_moved(stack, owner_conn, kept, done.to_version or 0)
    await assert_all_open(runtime, kept)
    await assert_reconciled(stack, runtime, owner_conn)


async def test_not_more_than_a_batch_is_held_or_asked_for_at_a_time(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    await some_credentials(runtime, 20, updated=20)
    taken, asked = list[int](), list[int]()
    rewrap, batch = TransitKeyRing.rewrap, PostgresRewrapBatch.__init__

    async def counted_rewrap(self: TransitKeyRing, key: str, items: Any, **given: Any) -> Any:
        asked.append(len(items))
        return await rewrap(self, key, items, **given)

    def counted_batch(self: PostgresRewrapBatch, *given: Any) -> None:
        batch(self, *given)
        taken.append(len(self.credentials))

    with (
        patch.object(TransitKeyRing, "rewrap", counted_rewrap),
        patch.object(PostgresRewrapBatch, "__init__", counted_batch),
    ):
        async with rotator_of(stack.settings(rewrap_batch=3)) as rotator:
            await do(rotator, owner_conn, "rotate")
            await do(rotator, owner_conn, "rewrap")
    assert (sum(taken), max(taken)) == (20, 3)
    assert (sum(asked), max(asked)) == (40, 6)  # with the kept secrets
