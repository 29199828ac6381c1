"""A store sent again with its Idempotency-Key is answered again and not done again, whatever happened to the answer."""

import asyncio
import secrets
from typing import Literal
from uuid import uuid4

import pytest

from service.composition import Runtime
from service.errors import DatabaseUnavailable, IdempotencyMismatch, IdempotentResultGone
from service.memory.plaintext import Plaintext
from service.modules.credential_writer import NewCredential
from service.modules.records import OwnerAccess
from tests.doubles.postgres_proxy import PostgresProxy
from tests.port_hooks import Gate, hooked_runtime
from tests.support import Stack
from tests.written import Connection, Somebody, assert_agree, pair_of_keys


@pytest.fixture
def key() -> str:
    """An Idempotency-Key."""
    return secrets.token_hex(16)


async def test_the_same_request_again_is_the_same_credential(
    stack: Stack, runtime: Runtime, owner_conn: Connection, key: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    first = await somebody.store(runtime, keys, idempotency_key=key)
    assert await somebody.store(runtime, keys, idempotency_key=key) == first
    assert await somebody.row_ids(owner_conn) == [first.id]
    assert somebody.paths(stack) == {str(first.id)}
    # Another key, or none: another credential, of the same secrets.
    assert (await somebody.store(runtime, keys, idempotency_key=key + "2")).id != first.id
    assert (await somebody.store(runtime, keys)).id != first.id


@pytest.mark.parametrize("differs", ["account_id", "credential_type", "api_key", "secret_key", "boundary"])
async def test_the_same_key_with_another_body_is_refused(
    runtime: Runtime, owner_conn: Connection, key: str, differs: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    first = await somebody.store(runtime, keys, idempotency_key=key)
    body = {"account_id": str(somebody.account_id), "credential_type": "alpaca"}
    body |= {"api_key": keys[0], "secret_key": keys[1]}
    if differs == "boundary":  # the same characters, divided elsewhere
        body |= {"api_key": keys[0] + keys[1][:1], "secret_key": keys[1][1:]}
    else:
        others = {"account_id": str(uuid4()), "credential_type": "polygon"}
        body[differs] = others.get(differs, pair_of_keys()[0])
    new = NewCredential(
        body["account_id"],
        body["credential_type"],
        Plaintext.copy_of(body["api_key"]),
        Plaintext.copy_of(body["secret_key"]),
    )
    with pytest.raises(IdempotencyMismatch):
        await runtime.writer.store(somebody.access, new, idempotency_key=key)
    assert await somebody.row_ids(owner_conn) == [first.id]
    assert await somebody.opens(runtime, first.id) == keys


async def test_duplicates_at_once_make_one_credential_and_leave_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection, key: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await asyncio.gather(*(somebody.store(runtime, keys, idempotency_key=key) for _ in range(8)))
    assert len({each.id for each in stored}) == 1
    assert await somebody.row_ids(owner_conn) == [stored[0].id]
    assert await somebody.opens(runtime, stored[0].id) == keys
    assert somebody.paths(stack) == {str(stored[0].id)}
    assert await somebody.intents(owner_conn) == 0


@pytest.mark.parametrize("same_body", [True, False])
async def test_a_duplicate_that_comes_second_to_the_commit_is_answered_as_the_first_or_refused(
    stack: Stack, runtime: Runtime, owner_conn: Connection, key: str, same_body: bool
) -> None:
    somebody, keys, gate = Somebody(), pair_of_keys(), Gate("before", "store.insert")
    async with hooked_runtime(stack.settings(), gate) as slow:
        other = keys if same_body else pair_of_keys()
        late = asyncio.create_task(somebody.store(slow, other, idempotency_key=key))
        await gate.wait_for(late)
        first = await somebody.store(runtime, keys, idempotency_key=key)
        gate.opened.set()
        if same_body:
            assert await late == first
        else:
            with pytest.raises(IdempotencyMismatch):
                await late
    assert await somebody.row_ids(owner_conn) == [first.id]
    assert somebody.paths(stack) == {str(first.id)}
    assert await somebody.intents(owner_conn) == 0


async def test_one_callers_key_never_answers_anothers(runtime: Runtime, key: str) -> None:
    alice, bob, keys = Somebody(), Somebody(), pair_of_keys()
    ids = {(await each.store(runtime, keys, idempotency_key=key)).id for each in (alice, bob)}
    with Plaintext.copy_of(keys[0]) as api_key, Plaintext.copy_of(keys[1]) as secret_key:
        for actor in ("orchestrator-1", "orchestrator-2"):
            access = OwnerAccess(user_id=alice.user_id, actor=actor)
            new = NewCredential(alice.account_id, "alpaca", api_key, secret_key)
            ids.add((await runtime.writer.store(access, new, idempotency_key=key)).id)
    assert len(ids) == 4


async def test_a_result_that_has_been_deleted_since_is_said_to_be_gone(
    runtime: Runtime, owner_conn: Connection, key: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys, idempotency_key=key)
    await runtime.writer.delete(somebody.access, stored.id, if_match=None)
    with pytest.raises(IdempotentResultGone):
        await somebody.store(runtime, keys, idempotency_key=key)
    assert await somebody.row_ids(owner_conn) == []


async def test_a_key_counts_until_its_time_has_passed(runtime: Runtime, owner_conn: Connection, key: str) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    first = await somebody.store(runtime, keys, idempotency_key=key)
    until = await owner_conn.fetchval(
        "SELECT extract(epoch FROM expires_at - now()) / 3600 FROM idempotency_keys WHERE credential_id = $1", first.id
    )
    assert 23.9 < until <= 24
    await owner_conn.execute("UPDATE idempotency_keys SET expires_at = now() WHERE credential_id = $1", first.id)
    second = await somebody.store(runtime, keys, idempotency_key=key)
    assert await somebody.row_ids(owner_conn) == [first.id, second.id]
    assert await somebody.store(runtime, keys, idempotency_key=key) == second


async def test_of_the_body_an_hmac_of_vaults_is_kept_and_nothing_else(
    runtime: Runtime, owner_conn: Connection, key: str
) -> None:
    somebody, other, keys = Somebody(), Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys, idempotency_key=key)
    await other.store(runtime, keys, idempotency_key=key)
    row = await owner_conn.fetchrow("SELECT * FROM idempotency_keys WHERE user_id = $1", somebody.user_id)
    assert row is not None
    assert len(row["body_mac"]) == 32
    assert row["mac_key_version"] == 1
    assert row["credential_id"] == stored.id
    assert not [value for value in row.values() if isinstance(value, str) and (keys[0] in value or keys[1] in value)]


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_store_whose_commit_got_no_answer_is_one_credential_when_it_is_sent_again(
    stack: Stack, runtime: Runtime, owner_conn: Connection, key: str, where: Literal["before", "after"]
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    async with (
        PostgresProxy(stack.runtime_url) as network,
        Runtime.open(stack.settings(database_url=network.url)) as far,
    ):
        network.cut = where
        with pytest.raises(DatabaseUnavailable) as lost:
            await somebody.store(far, keys, idempotency_key=key)
        assert lost.value.retry_after
        assert network.cuts == 1
        assert len(await somebody.row_ids(owner_conn)) == (1 if where == "after" else 0)
        again = await somebody.store(far, keys, idempotency_key=key)
    assert await somebody.row_ids(owner_conn) == [again.id]
    assert await somebody.opens(runtime, again.id) == keys
    await somebody.make_intents_due(owner_conn)
    await runtime.reconciler.run(apply=True)
    assert somebody.paths(stack) == {str(again.id)}
    assert await somebody.intents(owner_conn) == 0
    await assert_agree(stack, owner_conn, again.id)


async def test_a_store_in_a_callers_transaction_remembers_its_key_only_when_that_commits(
    stack: Stack, runtime: Runtime, runtime_conn: Connection, owner_conn: Connection, key: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    transaction = runtime_conn.transaction()
    await transaction.start()
    lost = await somebody.store(runtime, keys, conn=runtime_conn, idempotency_key=key)
    await transaction.rollback()
    async with runtime_conn.transaction():
        kept = await somebody.store(runtime, keys, conn=runtime_conn, idempotency_key=key)
    assert kept.id != lost.id
    assert await somebody.store(runtime, keys, idempotency_key=key) == kept
    assert await somebody.row_ids(owner_conn) == [kept.id]
