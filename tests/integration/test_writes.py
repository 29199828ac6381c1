"""Updating, rolling back, disabling and deleting: what a caller sees, and what is in Vault and Postgres afterwards."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from service.composition import Runtime
from service.errors import (
    ConcurrentUpdate,
    CredentialInactive,
    CredentialNotFound,
    InvalidInput,
    NothingToRollBack,
    PreconditionFailed,
    VaultUnavailable,
)
from service.modules.records import Credential
from tests.port_hooks import Gate, hooked_runtime
from tests.support import Stack, canary
from tests.written import Connection, Somebody, assert_agree, live_versions, pair_of_keys


async def actions(conn: Connection, somebody: Somebody) -> list[str]:
    """What is on record of this user's credentials, oldest first."""
    query = "SELECT action || ' ' || outcome AS what FROM credential_events WHERE user_id = $1 ORDER BY id"
    return [row["what"] for row in await conn.fetch(query, somebody.user_id)]


# --- update -----------------------------------------------------------------------------------------------------


async def test_updating_both_keys_replaces_the_secret_and_keeps_the_one_before(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, old, new = Somebody(), pair_of_keys(), pair_of_keys()
    stored = await somebody.store(runtime, old)
    updated = await somebody.update(runtime, stored.id, *new)
    assert await somebody.opens(runtime, stored.id) == new
    assert (updated.secret_version, updated.row_version) == (2, stored.row_version + 1)
    assert updated.updated_at > stored.updated_at
    assert updated.created_at == stored.created_at
    assert updated.previous is not None
    assert (updated.previous.kv_version, updated.previous.secret_version) == (stored.reference.kv_version, 1)
    await assert_agree(stack, owner_conn, stored.id)
    # Both were given, so nothing had to be opened.
    assert await actions(owner_conn, somebody) == ["store done", "update done", "open granted"]


@pytest.mark.parametrize("field", ["api_key", "secret_key"])
async def test_updating_one_key_keeps_the_other_and_is_recorded_as_an_opening(
    stack: Stack, runtime: Runtime, owner_conn: Connection, field: str
) -> None:
    somebody, old, new = Somebody(), pair_of_keys(), canary()
    stored = await somebody.store(runtime, old)
    given: dict[str, Any] = {field: new}
    await somebody.update(runtime, stored.id, **given)
    assert await actions(owner_conn, somebody) == ["store done", "reseal granted", "update done"]
    assert await somebody.opens(runtime, stored.id) == ((new, old[1]) if field == "api_key" else (old[0], new))
    await assert_agree(stack, owner_conn, stored.id)


async def test_disabling_and_enabling_leaves_the_secret_alone(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys)
    disabled = await somebody.update(runtime, stored.id, is_active=False)
    assert (disabled.is_active, disabled.row_version) == (False, stored.row_version + 1)
    with pytest.raises(CredentialInactive):
        await somebody.opens(runtime, stored.id)
    enabled = await somebody.update(runtime, stored.id, is_active=True)
    assert (enabled.is_active, enabled.reference) == (True, stored.reference)
    assert await somebody.opens(runtime, stored.id) == keys
    assert live_versions(stack, stored.reference.kv_path) == {1}
    assert await actions(owner_conn, somebody) == [
        "store done",
        "disable done",
        "open denied",
        "enable done",
        "open granted",
    ]


async def test_a_disabled_credential_can_be_given_a_new_key_and_stays_disabled_unless_told(runtime: Runtime) -> None:
    somebody, old, new = Somebody(), pair_of_keys(), pair_of_keys()
    stored = await somebody.store(runtime, old)
    await somebody.update(runtime, stored.id, is_active=False)
    assert not (await somebody.update(runtime, stored.id, secret_key=new[1])).is_active
    assert (await somebody.update(runtime, stored.id, api_key=new[0], is_active=True)).is_active
    assert await somebody.opens(runtime, stored.id) == new


async def test_polygons_empty_secret_key_survives_every_kind_of_update(runtime: Runtime) -> None:
    somebody, first, second = Somebody(), canary(), canary()
    stored = await somebody.store(runtime, (first, ""), "polygon")
    assert await somebody.opens(runtime, stored.id) == (first, "")
    await somebody.update(runtime, stored.id, api_key=second)
    assert await somebody.opens(runtime, stored.id) == (second, "")
    await somebody.update(runtime, stored.id, secret_key="given")
    assert await somebody.opens(runtime, stored.id) == (second, "given")
    await somebody.update(runtime, stored.id, secret_key="")
    assert await somebody.opens(runtime, stored.id) == (second, "")
    await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    assert await somebody.opens(runtime, stored.id) == (second, "given")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "body"),
        ({"secret_key": ""}, "secret_key"),
        ({"api_key": "", "secret_key": "x"}, "api_key"),
        ({"api_key": "two\nlines"}, "api_key"),
        ({"secret_key": "not ascii: ß"}, "secret_key"),
        ({"api_key": "x" * 513}, "api_key"),
    ],
)
async def test_a_wrong_update_names_the_field_and_changes_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection, given: dict[str, Any], field: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys)
    with pytest.raises(InvalidInput) as refused:
        await somebody.update(runtime, stored.id, **given)
    assert refused.value.field == field
    assert await somebody.opens(runtime, stored.id) == keys
    assert live_versions(stack, stored.reference.kv_path) == {1}


async def test_a_new_secret_is_not_validated_because_the_old_one_was(runtime: Runtime, owner_conn: Connection) -> None:
    somebody = Somebody()
    stored = await somebody.store(runtime, pair_of_keys())
    await owner_conn.execute(
        "UPDATE credentials SET validation_state = 'valid', account_type = 'live', last_validated_at = now()"
        " WHERE id = $1",
        stored.id,
    )
    updated = await somebody.update(runtime, stored.id, *pair_of_keys())
    assert (updated.validation_state, updated.account_type, updated.last_validated_at) == ("unvalidated", None, None)


# --- rollback ---------------------------------------------------------------------------------------------------


async def test_a_rollback_brings_the_secret_before_back_under_a_number_of_its_own(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, old, new = Somebody(), pair_of_keys(), pair_of_keys()
    stored = await somebody.store(runtime, old)
    await somebody.update(runtime, stored.id, *new)
    back = await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    assert (back.secret_version, back.row_version) == (3, stored.row_version + 2)
    assert await somebody.opens(runtime, stored.id) == old
    again = await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    assert again.secret_version == 4
    assert await somebody.opens(runtime, stored.id) == new
    await somebody.make_intents_due(owner_conn)
    await runtime.reconciler.run(apply=True)
    await assert_agree(stack, owner_conn, stored.id)
    assert await actions(owner_conn, somebody) == [
        *("store done", "update done", "reseal granted", "rollback done", "open granted"),
        *("reseal granted", "rollback done", "open granted"),
    ]


async def test_there_is_nothing_to_roll_back_to_before_the_first_update_or_after_its_time(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, pair_of_keys())
    with pytest.raises(NothingToRollBack):
        await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    await somebody.update(runtime, stored.id, *keys)
    await owner_conn.execute("UPDATE credentials SET previous_expires_at = now() WHERE id = $1", stored.id)
    with pytest.raises(NothingToRollBack):
        await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    async with Runtime.open(stack.settings(previous_secret_hours=0)) as keeps_none:
        await somebody.update(keeps_none, stored.id, *keys)
    with pytest.raises(NothingToRollBack):
        await runtime.writer.rollback(somebody.access, stored.id, if_match=None)
    assert await somebody.opens(runtime, stored.id) == keys


# --- at the same time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["both keys", "one key each"])
async def test_of_two_updates_that_come_to_their_commit_together_one_wins_and_nothing_is_mixed(
    stack: Stack, runtime: Runtime, owner_conn: Connection, whole: bool
) -> None:
    somebody, old, one, two = Somebody(), pair_of_keys(), pair_of_keys(), pair_of_keys()
    stored = await somebody.store(runtime, old)
    gates = [Gate("before", "store.replace_secret") for _ in range(2)]
    async with hooked_runtime(stack.settings(), gates[0]) as first, hooked_runtime(stack.settings(), gates[1]) as other:
        tasks = [
            asyncio.create_task(somebody.update(first, stored.id, one[0], one[1] if whole else None)),
            asyncio.create_task(somebody.update(other, stored.id, two[0] if whole else None, two[1])),
        ]
        for gate, task in zip(gates, tasks, strict=True):
            await gate.wait_for(task)
        for gate in gates:
            gate.opened.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    winners = [number for number, result in enumerate(results) if isinstance(result, Credential)]
    assert len(winners) == 1
    assert isinstance(results[1 - winners[0]], ConcurrentUpdate)
    expected = [one, two] if whole else [(one[0], old[1]), (old[0], two[1])]
    assert await somebody.opens(runtime, stored.id) == expected[winners[0]]
    # The loser has taken its version back itself: there is nothing for reconciliation to find.
    assert await somebody.intents(owner_conn) == 0
    await assert_agree(stack, owner_conn, stored.id)


async def test_many_updates_at_once_each_win_in_order_or_lose_whole(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody = Somebody()
    stored = await somebody.store(runtime, pair_of_keys())
    given = [pair_of_keys() for _ in range(8)]
    updates = (somebody.update(runtime, stored.id, *keys) for keys in given)
    results = await asyncio.gather(*updates, return_exceptions=True)
    won = [result for result in results if isinstance(result, Credential)]
    assert won
    assert {type(result) for result in results} <= {Credential, ConcurrentUpdate}
    assert sorted(each.secret_version for each in won) == list(range(2, 2 + len(won)))
    last = max(won, key=lambda each: each.row_version)
    assert await somebody.opens(runtime, stored.id) == given[results.index(last)]
    await somebody.make_intents_due(owner_conn)
    await runtime.reconciler.run(apply=True)
    await assert_agree(stack, owner_conn, stored.id)


async def test_an_update_of_a_credential_that_is_deleted_meanwhile_leaves_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, gate = Somebody(), Gate("before", "ciphertexts.newest_version")
    stored = await somebody.store(runtime, pair_of_keys())
    async with hooked_runtime(stack.settings(), gate) as slow:
        updating = asyncio.create_task(somebody.update(slow, stored.id, *pair_of_keys()))
        await gate.wait_for(updating)
        await runtime.writer.delete(somebody.access, stored.id, if_match=None)
        gate.opened.set()
        with pytest.raises(ConcurrentUpdate):
            await updating
    assert not somebody.paths(stack)
    assert await somebody.intents(owner_conn) == 0


# --- If-Match ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["update", "disable", "rollback", "delete"])
async def test_a_change_of_a_version_that_is_not_the_present_one_is_refused(
    runtime: Runtime, owner_conn: Connection, operation: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    credential_id = (await somebody.store(runtime, pair_of_keys())).id
    present = (await somebody.update(runtime, credential_id, *keys)).row_version

    async def change(if_match: frozenset[int] | None) -> Any:
        match operation:
            case "update":
                return await somebody.update(runtime, credential_id, *pair_of_keys(), if_match=if_match)
            case "disable":
                return await somebody.update(runtime, credential_id, is_active=False, if_match=if_match)
            case "rollback":
                return await runtime.writer.rollback(somebody.access, credential_id, if_match=if_match)
        return await runtime.writer.delete(somebody.access, credential_id, if_match=if_match)

    for unfit in (frozenset[int](), frozenset({present - 1}), frozenset({present - 1, present + 1})):
        with pytest.raises(PreconditionFailed):
            await change(unfit)
    assert await somebody.opens(runtime, credential_id) == keys
    await change(frozenset({present - 1, present}))
    versions = await owner_conn.fetch("SELECT row_version FROM credentials WHERE id = $1", credential_id)
    assert [row["row_version"] for row in versions] == ([] if operation == "delete" else [present + 1])


# --- delete, and Vault not answering ----------------------------------------------------------------------------


async def test_a_deleted_credential_is_nowhere_but_in_the_events(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody = Somebody()
    stored = await somebody.store(runtime, pair_of_keys())
    await runtime.writer.delete(somebody.access, stored.id, if_match=None)
    for nobody_has_it in (stored.id, uuid4()):
        with pytest.raises(CredentialNotFound):
            await somebody.opens(runtime, nobody_has_it)
        with pytest.raises(CredentialNotFound):
            await runtime.writer.delete(somebody.access, nobody_has_it, if_match=None)
    assert not somebody.paths(stack)
    assert await somebody.intents(owner_conn) == 0
    assert (await actions(owner_conn, somebody))[:2] == ["store done", "delete done"]


async def test_a_delete_that_vault_does_not_answer_is_done_and_its_ciphertext_is_removed_later(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody = Somebody()
    stored = await somebody.store(runtime, pair_of_keys())

    async def vault_is_down(when: str, step: str) -> None:
        if (when, step) == ("before", "ciphertexts.delete"):
            raise VaultUnavailable

    async with hooked_runtime(stack.settings(), vault_is_down) as crippled:
        await crippled.writer.delete(somebody.access, stored.id, if_match=None)
    with pytest.raises(CredentialNotFound):
        await somebody.opens(runtime, stored.id)
    await runtime.reconciler.run(apply=True)  # its intent is due at once
    assert not somebody.paths(stack)
    assert await somebody.intents(owner_conn) == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["ciphertexts.write", "ciphertexts.annotate"])
async def test_an_update_that_vault_fails_leaves_the_old_secret_and_an_intent(
    stack: Stack, runtime: Runtime, owner_conn: Connection, step: str, when: str
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys)

    async def vault_is_down(at: str, what: str) -> None:
        if (at, what) == (when, step):
            raise VaultUnavailable

    async with hooked_runtime(stack.settings(), vault_is_down) as crippled:
        with pytest.raises(VaultUnavailable):
            await somebody.update(crippled, stored.id, *pair_of_keys())
    assert await somebody.opens(runtime, stored.id) == keys
    await somebody.make_intents_due(owner_conn)
    await runtime.reconciler.run(apply=True)
    await assert_agree(stack, owner_conn, stored.id)
    assert await somebody.opens(runtime, stored.id) == keys
