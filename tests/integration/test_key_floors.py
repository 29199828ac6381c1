"""Invariant 7, as far as writing and opening go: a key version is retired only when no write under way needs it.

On a stack of this module's own, as keys are rotated and retired here.
"""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from service.composition import Runtime
from service.errors import DatabaseNotReady, KeyVersionRetired
from tests.conftest import start_stack
from tests.port_hooks import Gate, hooked_runtime
from tests.support import Stack
from tests.written import Connection, Somebody, assert_agree, live_versions, pair_of_keys

KEY = "credentials-alpaca"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("floors")) as started:
        yield started


def rotate(stack: Stack) -> int:
    """A new version of the key; returns it."""
    assert stack.vault("POST", f"transit/keys/{KEY}/rotate").is_success
    return int(stack.vault("GET", f"transit/keys/{KEY}").json()["data"]["latest_version"])


def retire_below(stack: Stack, version: int) -> None:
    """Vault decrypts nothing any more that is below this version."""
    done = stack.vault("POST", f"transit/keys/{KEY}/config", {"min_decryption_version": version})
    assert done.is_success


@pytest.fixture(autouse=True)
async def floor_as_it_was(stack: Stack, owner_conn: Connection) -> None:
    """Each test begins with nothing retired."""
    retire_below(stack, 1)
    await owner_conn.execute("INSERT INTO key_floors (transit_key) VALUES ($1) ON CONFLICT DO NOTHING", KEY)
    await owner_conn.execute("UPDATE key_floors SET min_version = 1 WHERE transit_key = $1", KEY)


async def raise_floor(conn: Connection, version: int) -> None:
    """What retiring does first."""
    await conn.execute("UPDATE key_floors SET min_version = $2 WHERE transit_key = $1", KEY, version)


@pytest.mark.parametrize("held_before", ["store.begin_write", "ciphertexts.write", "store.insert"])
async def test_invariant_7_a_store_under_way_while_its_key_version_is_retired_is_sealed_again(
    stack: Stack, runtime: Runtime, owner_conn: Connection, held_before: str
) -> None:
    somebody, keys, gate = Somebody(), pair_of_keys(), Gate("before", held_before)
    async with hooked_runtime(stack.settings(), gate) as slow:
        storing = asyncio.create_task(somebody.store(slow, keys))
        await gate.wait_for(storing)
        version = rotate(stack)
        await raise_floor(owner_conn, version)
        retire_below(stack, version)
        gate.opened.set()
        stored = await storing
    assert stored.transit_key_version == version
    assert await somebody.opens(runtime, stored.id) == keys
    assert await somebody.intents(owner_conn) == 0
    await assert_agree(stack, owner_conn, stored.id)


async def test_invariant_7_an_update_under_way_while_its_key_version_is_retired_is_sealed_again(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys, gate = Somebody(), pair_of_keys(), Gate("before", "store.replace_secret")
    stored = await somebody.store(runtime, pair_of_keys())
    async with hooked_runtime(stack.settings(), gate) as slow:
        updating = asyncio.create_task(somebody.update(slow, stored.id, *keys))
        await gate.wait_for(updating)
        version = rotate(stack)
        await raise_floor(owner_conn, version)
        gate.opened.set()
        updated = await updating
    assert updated.transit_key_version == version
    assert updated.secret_version == stored.secret_version + 1
    assert await somebody.opens(runtime, stored.id) == keys
    # Version 2 was sealed under the retired key version, and has been taken back.
    assert live_versions(stack, stored.reference.kv_path) == {1, 3}
    assert await somebody.intents(owner_conn) == 0
    await assert_agree(stack, owner_conn, stored.id)


async def test_invariant_7_a_write_about_to_commit_holds_retiring_off_until_it_has_ended(
    stack: Stack, runtime: Runtime, runtime_conn: Connection, owner_conn: Connection
) -> None:
    somebody = Somebody()
    transaction = runtime_conn.transaction()
    await transaction.start()
    stored = await somebody.store(runtime, pair_of_keys(), conn=runtime_conn)
    with pytest.raises(asyncpg.LockNotAvailableError):
        await owner_conn.execute("SELECT FROM key_floors WHERE transit_key = $1 FOR UPDATE NOWAIT", KEY)
    waiting = asyncio.create_task(raise_floor(owner_conn, stored.transit_key_version))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await transaction.commit()
    await asyncio.wait_for(waiting, 5)


async def test_writes_do_not_hold_each_other_off_at_the_floor(
    stack: Stack, runtime: Runtime, runtime_conn: Connection
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    async with runtime_conn.transaction():
        await somebody.store(runtime, pair_of_keys(), conn=runtime_conn)
        stored = await asyncio.wait_for(somebody.store(runtime, keys), 3)
    assert await somebody.opens(runtime, stored.id) == keys


async def test_without_a_floor_for_the_key_nothing_is_written_and_the_database_is_called_not_ready(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody = Somebody()
    await owner_conn.execute("DELETE FROM key_floors WHERE transit_key = $1", KEY)
    with pytest.raises(DatabaseNotReady):
        await somebody.store(runtime, pair_of_keys())
    assert not await somebody.row_ids(owner_conn)
    await somebody.make_intents_due(owner_conn)
    await runtime.reconciler.run(apply=True)
    assert not somebody.paths(stack)


async def test_a_key_version_retired_between_row_and_decryption_costs_one_retry(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys, gate = Somebody(), pair_of_keys(), Gate("before", "cipher.decrypt")
    stored = await somebody.store(runtime, pair_of_keys())
    async with hooked_runtime(stack.settings(), gate) as slow:
        opening = asyncio.create_task(somebody.opens(slow, stored.id))
        await gate.wait_for(opening)
        # Meanwhile it is sealed under a new version, and the old one is retired.
        version = rotate(stack)
        await somebody.update(runtime, stored.id, *keys)
        retire_below(stack, version)
        gate.opened.set()
        assert await opening == keys
    assert await opens_recorded(owner_conn, somebody) == [
        ("granted", None, stored.transit_key_version),
        ("failed", "key_version_retired", stored.transit_key_version),
        ("granted", None, version),
    ]


async def test_a_credential_under_a_retired_key_version_fails_after_one_retry_and_each_failure_is_recorded(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys)
    retire_below(stack, rotate(stack))
    with pytest.raises(KeyVersionRetired):
        await somebody.opens(runtime, stored.id)
    granted = ("granted", None, stored.transit_key_version)
    failed = ("failed", "key_version_retired", stored.transit_key_version)
    assert await opens_recorded(owner_conn, somebody) == [granted, failed, granted, failed]
    retire_below(stack, stored.transit_key_version)
    assert await somebody.opens(runtime, stored.id) == keys


async def opens_recorded(conn: Connection, somebody: Somebody) -> list[tuple[str, str | None, int | None]]:
    """Outcome, reason and key version of each event of opening, oldest first."""
    rows = await conn.fetch(
        "SELECT outcome, reason, transit_key_version FROM credential_events"
        " WHERE user_id = $1 AND action = 'open' ORDER BY id",
        somebody.user_id,
    )
    return [(row["outcome"], row["reason"], row["transit_key_version"]) for row in rows]
