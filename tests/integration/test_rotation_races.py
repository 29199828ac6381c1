"""Rewraps and users' writes that meet: whichever is first, no row is overwritten and no update is lost.

On a stack of this module's own, as keys are rotated here.
"""

import asyncio
from collections.abc import Iterator

import pytest

from service.composition import Runtime
from service.errors import CredentialInactive, CredentialNotFound
from service.modules.key_records import JobState
from tests.conftest import start_stack
from tests.port_hooks import Gate, hooked_rotator, hooked_runtime
from tests.rotating import Kept, ask, assert_reconciled, clear, do, finish, job, one, rotator_of, some_credentials
from tests.support import Stack
from tests.written import Connection, Pair, assert_agree, pair_of_keys

_STEPS = [
    ("before", "ciphertexts.read"),
    ("before", "ciphertexts.write"),
    ("before", "batch.finish"),
    ("after", "batch.finish"),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("races")) as started:
        yield started


@pytest.fixture(autouse=True)
async def empty(stack: Stack, owner_conn: Connection) -> None:
    """Each test's credentials are its own."""
    await clear(stack, owner_conn)


async def write(runtime: Runtime, kept: Kept, operation: str, keys: Pair) -> None:
    """What the credential's user does."""
    access = kept.somebody.access
    match operation:
        case "update_both_keys":
            await kept.somebody.update(runtime, kept.id, *keys)
        case "update_one_key":
            await kept.somebody.update(runtime, kept.id, secret_key=keys[1])
        case "rollback":
            await runtime.writer.rollback(access, kept.id, if_match=None)
        case "disable":
            await kept.somebody.update(runtime, kept.id, is_active=False)
        case "delete":
            await runtime.writer.delete(access, kept.id, if_match=None)


async def assert_written(
    stack: Stack, runtime: Runtime, conn: Connection, kept: Kept, operation: str, keys: Pair
) -> None:
    """What the user did is what there is, and it is whole."""
    opens = kept.somebody.opens
    if operation == "delete":
        with pytest.raises(CredentialNotFound):
            await opens(runtime, kept.id)
        await assert_reconciled(stack, runtime, conn)
        assert not kept.somebody.paths(stack)
        return
    if operation == "disable":
        with pytest.raises(CredentialInactive):
            await opens(runtime, kept.id)
        await kept.somebody.update(runtime, kept.id, is_active=True)
    after = {"update_both_keys": keys, "update_one_key": (kept.keys[0], keys[1]), "rollback": kept.previous}
    assert await opens(runtime, kept.id) == after.get(operation, kept.keys)
    await assert_reconciled(stack, runtime, conn)
    await assert_agree(stack, conn, kept.id)
    assert await opens(runtime, kept.id) == after.get(operation, kept.keys)
    # What is kept for a rollback is whole, too: the secret before the last change.
    await runtime.writer.rollback(kept.somebody.access, kept.id, if_match=None)
    assert await opens(runtime, kept.id) == (kept.previous if operation == "disable" else kept.keys)


@pytest.mark.parametrize("held", _STEPS, ids="-".join)
@pytest.mark.parametrize("operation", ["update_both_keys", "rollback", "disable", "delete"])
async def test_a_write_that_meets_a_rewrap_between_its_steps_succeeds_and_is_not_overwritten(
    stack: Stack, runtime: Runtime, owner_conn: Connection, operation: str, held: tuple[str, str]
) -> None:
    (kept,), keys, gate = await some_credentials(runtime, 1, updated=1), pair_of_keys(), Gate(*held)
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
    async with hooked_rotator(stack.settings(), gate) as rotator:
        asked = await ask(owner_conn, "rewrap")
        rewrapping = asyncio.create_task(rotator.runner.step())
        await gate.wait_for(rewrapping)
        writing = asyncio.create_task(write(runtime, kept, operation, keys))
        await asyncio.sleep(0.1)  # so that it has come to the row's lock
        assert not writing.done()
        gate.opened.set()
        await asyncio.gather(rewrapping, writing)
        assert (await finish(rotator, owner_conn, asked)).state is JobState.DONE
    await assert_written(stack, runtime, owner_conn, kept, operation, keys)


@pytest.mark.parametrize(
    ("operation", "held_before"),
    [
        ("update_both_keys", "ciphertexts.newest_version"),
        ("update_both_keys", "store.begin_write"),
        ("update_both_keys", "ciphertexts.write"),
        ("update_both_keys", "ciphertexts.annotate"),
        ("update_both_keys", "store.replace_secret"),
        ("update_one_key", "cipher.decrypt"),
        ("update_one_key", "store.replace_secret"),
        ("rollback", "cipher.decrypt"),
        ("rollback", "store.replace_secret"),
        ("disable", "store.set_active"),
        ("delete", "store.remove"),
    ],
)
async def test_a_rewrap_that_comes_between_the_steps_of_a_write_does_not_refuse_it(
    stack: Stack, runtime: Runtime, owner_conn: Connection, operation: str, held_before: str
) -> None:
    (kept,), keys, gate = await some_credentials(runtime, 1, updated=1), pair_of_keys(), Gate("before", held_before)
    async with rotator_of(stack.settings()) as rotator, hooked_runtime(stack.settings(), gate) as slow:
        writing = asyncio.create_task(write(slow, kept, operation, keys))
        await gate.wait_for(writing)
        await do(rotator, owner_conn, "rotate")
        done = await do(rotator, owner_conn, "rewrap")
        assert (done.state, done.failed) == (JobState.DONE, 0)
        gate.opened.set()
        await writing
        # Sealed before the rotation, committed after the rewrap: it is below, and the next rewrap's.
        await do(rotator, owner_conn, "rewrap")
    await assert_written(stack, runtime, owner_conn, kept, operation, keys)


async def test_a_row_that_others_hold_is_passed_by_and_done_once_they_let_go_and_one_that_failed_fails_once(
    stack: Stack, runtime: Runtime, owner_conn: Connection, runtime_conn: Connection
) -> None:
    kept = await some_credentials(runtime, 4)
    assert stack.vault("PUT", f"credentials/destroy/{kept[1].path}", {"versions": [1]}).is_success
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
        asked = await ask(owner_conn, "rewrap")
        async with runtime_conn.transaction():
            await runtime_conn.execute("UPDATE credentials SET last_used_at = now() WHERE id = $1", kept[0].id)
            while (await job(owner_conn, asked)).done < 2:
                await rotator.runner.step()
            for _ in range(3):
                await rotator.runner.step()
            assert (await job(owner_conn, asked)).state is JobState.RUNNING
        done = await finish(rotator, owner_conn, asked)
    assert (done.state, done.done, done.failed) == (JobState.FAILED, 3, 1)
    events = await owner_conn.fetchval(
        "SELECT count(*) FROM credential_events WHERE action = 'rewrap' AND credential_id = $1", kept[1].id
    )
    assert events == 1


async def test_reconciliation_that_takes_a_rewraps_intent_keeps_the_row_as_it_was(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    (kept,), gate = await some_credentials(runtime, 1, updated=1), Gate("before", "batch.finish")
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
    async with hooked_rotator(stack.settings(), gate) as rotator:
        asked = await ask(owner_conn, "rewrap")
        rewrapping = asyncio.create_task(rotator.runner.step())
        await gate.wait_for(rewrapping)
        # As reconciliation does once an intent's time is over: what it stands for is destroyed.
        intent = await one(
            owner_conn,
            "DELETE FROM write_intents WHERE kv_path = $1 AND kv_version = 4 RETURNING kv_version",
            kept.path,
        )
        assert stack.vault("PUT", f"credentials/destroy/{kept.path}", {"versions": [intent["kv_version"]]}).is_success
        gate.opened.set()
        await asyncio.gather(rewrapping, return_exceptions=True)
        assert await kept.somebody.opens(runtime, kept.id) == kept.keys
        assert (await finish(rotator, owner_conn, asked)).state is JobState.DONE
    assert await kept.somebody.opens(runtime, kept.id) == kept.keys
    await assert_reconciled(stack, runtime, owner_conn)
    await assert_agree(stack, owner_conn, kept.id)
