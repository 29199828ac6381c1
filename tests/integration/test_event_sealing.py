"""Sealing: what ends up in which seal, whatever commits late, fails or runs at the same time. Nothing waits for it.

On a stack of this module's own: Vault has one anchor, and is sealed here.
"""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest

from service.composition import Runtime
from service.errors import VaultSealed
from service.modules.event_chain import EventRange, SealMark
from service.modules.event_ports import Signature
from service.postgres.pool import Database
from service.postgres.seal_store import PostgresSealStore
from service.rotator import Rotator
from service.vault.event_signer import KvSealAnchor, TransitEventSigner
from tests.conftest import start_stack
from tests.sealed import Trail, trail
from tests.support import Stack
from tests.written import Connection, Somebody, pair_of_keys


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("sealing")) as started:
        yield started


@pytest.fixture
async def sealed(stack: Stack) -> AsyncIterator[Trail]:
    async with trail(stack) as made:
        yield made


@pytest.fixture
async def slow(sealed: Trail) -> AsyncIterator[Connection]:
    """Another connection, for a transaction that takes its time."""
    conn: Connection = await asyncpg.connect(sealed.owner_url)
    yield conn
    await conn.close(timeout=10)


async def counts(sealed: Trail) -> list[int]:
    """How many events each seal covers."""
    return [row["events"] for row in await sealed.conn.fetch("SELECT events FROM event_seals ORDER BY number")]


# --- what is sealed ---------------------------------------------------------------------------------------------------


async def test_what_the_service_does_is_sealed_and_verified(sealed: Trail) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    async with Runtime.open(sealed.settings) as runtime:
        stored = await somebody.store(runtime, keys)
        assert await somebody.opens(runtime, stored.id) == keys
    assert await sealed.seal() == 1
    report = await sealed.verify()
    assert (report.events, report.problems, report.unsealed.events) == (2, 0, 0)


async def test_the_bytes_that_are_hashed_are_the_rows_columns_in_postgres_binary_form(sealed: Trail) -> None:
    """What somebody needs to check a seal with other software: each column's type, length and bytes."""
    await sealed.record()
    await sealed.conn.execute(
        "INSERT INTO credential_events (acting_user, actor, action, outcome) VALUES (NULL, 'job', 'rotate', 'done')"
    )
    rows = await sealed.conn.fetch("SELECT * FROM credential_events ORDER BY id")
    async with Database.open(sealed.rotator_settings) as database:
        events = [event async for page in PostgresSealStore(database).events(EVERYTHING) for event in page]
    assert [event.encoded for event in events] == [written(row) for row in rows]


EVERYTHING = EventRange(after_id=0, from_xid=0, upto_xid=2**63)
_INT8, _INT4, _TEXT, _UUID, _TIMESTAMPTZ, _XID8 = 20, 23, 25, 2950, 1184, 5069  # of pg_type.dat


def written(row: Any) -> bytes:
    """One event, as `seals.sql` has it."""
    at = int((row["at"].timestamp() - 946_684_800) * 1_000_000 + 0.5)
    assert abs(at / 1_000_000 + 946_684_800 - row["at"].timestamp()) < 1e-6
    at = at - at % 1_000_000 + row["at"].microsecond
    fields: list[tuple[int, bytes | None]] = [(_INT8, number(row["id"], 8)), (_TIMESTAMPTZ, number(at, 8))]
    fields += [(_UUID, None if row[name] is None else row[name].bytes) for name in ("credential_id",)]
    fields += [(_TEXT, text(row["user_id"])), (_UUID, None if row["account_id"] is None else row["account_id"].bytes)]
    fields += [
        (_TEXT, text(row[name])) for name in ("acting_user", "actor", "action", "outcome", "reason", "transit_key")
    ]
    version = row["transit_key_version"]
    fields += [(_INT4, None if version is None else number(version, 4))]
    fields += [(_UUID, None if row["batch_id"] is None else row["batch_id"].bytes), (_TEXT, text(row["request_id"]))]
    fields += [(_XID8, number(row["xid"], 8))]
    body = b"".join(
        number(kind, 4) + (b"\xff" * 4 if value is None else number(len(value), 4) + value) for kind, value in fields
    )
    return number(len(fields), 4) + body


def number(value: int, length: int) -> bytes:
    return value.to_bytes(length, "big", signed=True)


def text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


async def test_without_new_events_there_is_no_new_seal(sealed: Trail) -> None:
    assert await sealed.seal() == 0
    await sealed.recorded_and_sealed(2)
    async with sealed.sealer() as sealer:
        for _ in range(3):
            await sealed.conn.execute("SELECT pg_current_xact_id()")
            assert await sealer.run() == 0
    assert await counts(sealed) == [2]


async def test_a_round_ends_though_events_never_cease(sealed: Trail) -> None:
    sign = TransitEventSigner.sign

    async def signing(signer: TransitEventSigner, digest: bytes) -> Signature:
        await sealed.record()
        return await sign(signer, digest)

    await sealed.record(3)
    async with sealed.sealer() as sealer:
        with patch.object(TransitEventSigner, "sign", signing):
            async with asyncio.timeout(120):
                assert [await sealer.run() for _ in range(3)] == [1, 1, 1]
        assert await sealer.run() == 1
    assert await counts(sealed) == [3, 1, 1, 1]


async def test_an_event_of_a_transaction_that_commits_late_is_in_a_later_seal(sealed: Trail, slow: Connection) -> None:
    async with slow.transaction():
        await sealed.record(2, conn=slow)
        await sealed.record(3)  # of a later transaction, and there already
        assert await sealed.seal() == 0
        await sealed.record(1, conn=slow)
    assert await sealed.seal() == 1
    assert await counts(sealed) == [6]
    assert await sealed.found() == set()


async def test_what_was_recorded_before_a_long_transaction_is_sealed_and_what_came_after_waits_and_is_told(
    sealed: Trail, slow: Connection
) -> None:
    await sealed.record(4)
    async with slow.transaction():
        await slow.execute("SELECT pg_current_xact_id()")
        await sealed.record(3)
        assert await sealed.seal() == 1
        assert await sealed.seal() == 0
        report = await sealed.verify()
        assert (report.problems, report.events, report.unsealed.events, report.unsealed.held) == (0, 4, 3, 3)
        assert report.unsealed.held_since is not None
        first = await sealed.conn.fetchval("SELECT min(at) FROM credential_events WHERE id > 4")
        assert report.unsealed.held_since == first
    assert await sealed.seal() == 1
    assert await counts(sealed) == [4, 3]
    report = await sealed.verify()
    assert (report.problems, report.unsealed.events, report.unsealed.held) == (0, 0, 0)


async def test_an_event_of_a_transaction_that_was_rolled_back_is_missed_by_nobody(
    sealed: Trail, slow: Connection
) -> None:
    await sealed.record(2)
    transaction = slow.transaction()
    await transaction.start()
    await sealed.record(5, conn=slow)
    await transaction.rollback()
    await sealed.record(2)
    assert await sealed.seal() == 1
    assert await counts(sealed) == [4]
    assert await sealed.found() == set()


async def test_an_event_of_a_savepoint_is_sealed_with_its_transaction(sealed: Trail, slow: Connection) -> None:
    async with slow.transaction():
        await sealed.record(1, conn=slow)
        async with slow.transaction():
            await sealed.record(1, conn=slow)
            await sealed.record(1)
        await sealed.record(1, conn=slow)
    assert await sealed.seal() == 1
    assert await counts(sealed) == [4]
    assert await sealed.found() == set()


async def test_a_seal_ends_with_a_transaction_where_it_has_enough_and_the_rest_comes_in_the_next(sealed: Trail) -> None:
    for count in (3, 3, 12, 1, 1):
        await sealed.record(count)
    assert await sealed.seal(most=5) == 3
    assert await counts(sealed) == [6, 12, 2]
    assert await sealed.found() == set()


async def test_seals_divide_events_by_their_transactions_and_not_by_their_numbers(
    sealed: Trail, slow: Connection
) -> None:
    async with slow.transaction():
        await slow.execute("SELECT pg_current_xact_id()")
        await sealed.record(3)  # lower numbers, of a later transaction
        await sealed.record(3, conn=slow)
    assert await sealed.seal(most=2) == 2
    assert await sealed.found() == set()
    await sealed.conn.execute("DELETE FROM credential_events WHERE id = 4")
    assert await sealed.found() == {(1, "1 event fewer than were sealed")}


async def test_a_hundred_thousand_events_are_sealed_and_verified_in_bounded_memory(sealed: Trail) -> None:
    for _ in range(10):
        await sealed.record(10_000)
    async with sealed.sealer() as sealer:
        tracemalloc.start()
        try:
            assert await sealer.run() == 5
            report = await sealed.verify()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (report.events, report.problems) == (100_000, 0)
    assert peak < 12_000_000  # a hundred thousand events at once have some 30 MB of hashed bytes alone


# --- several, and trouble ---------------------------------------------------------------------------------------------


async def test_several_sealers_at_once_make_one_seal_of_each_number(sealed: Trail) -> None:
    async with sealed.sealer(most=5) as one, sealed.sealer(most=5) as two, sealed.sealer(most=5) as three:
        for _ in range(6):
            await sealed.record(5)
            await asyncio.gather(one.run(), two.run(), three.run())
        while await one.run():
            pass
    assert sum(await counts(sealed)) == 30
    assert await sealed.found() == set()
    assert sealed.anchor() == await sealed.newest()


class Killed(BaseException):
    """In the place of a process' end."""


async def test_a_seal_whose_maker_is_killed_before_it_is_anchored_is_anchored_by_the_next_one(sealed: Trail) -> None:
    await sealed.recorded_and_sealed(3)
    before = sealed.anchor()
    await sealed.record(4)
    with patch.object(KvSealAnchor, "write", side_effect=Killed), pytest.raises(Killed):
        await sealed.seal()
    assert sealed.anchor() == before
    assert await counts(sealed) == [3, 4]
    assert await sealed.found() == set()  # the anchor is behind, and in the chain
    assert await sealed.seal() == 0
    assert sealed.anchor() == await sealed.newest() != before


async def test_a_sealer_killed_before_its_seal_is_committed_leaves_nothing(sealed: Trail) -> None:
    await sealed.record(4)
    with patch.object(PostgresSealStore, "add", side_effect=Killed), pytest.raises(Killed):
        await sealed.seal()
    assert await counts(sealed) == []
    assert sealed.anchor() is None
    assert await sealed.seal() == 1
    assert await sealed.found() == set()


async def test_the_anchor_is_never_moved_back(sealed: Trail) -> None:
    async with sealed.sealer() as late:
        await sealed.record(1)
        await late.run()
        first = await sealed.newest()
        await sealed.recorded_and_sealed(1, 1)
        newest = await sealed.newest()
        await late._move_anchor(first)
        assert sealed.anchor() == newest
        late._anchored = None
        await late._move_anchor(first)
    assert sealed.anchor() == newest


async def test_an_anchor_that_was_deleted_in_vault_is_not_made_anew(sealed: Trail) -> None:
    """Deleted, not removed with its history: `cas` tells that there was one. Somebody undeletes it."""
    await sealed.recorded_and_sealed(3)
    before = sealed.anchor()
    assert sealed.stack.vault("DELETE", "credentials/data/event-seal").is_success
    await sealed.recorded_and_sealed(4)
    assert sealed.anchor() is None
    assert sealed.stack.vault("POST", "credentials/undelete/event-seal", {"versions": [1]}).is_success
    assert sealed.anchor() == before
    assert await sealed.seal() == 0
    assert sealed.anchor() == await sealed.newest()


async def test_sealing_goes_on_by_itself_after_vault_was_sealed(sealed: Trail) -> None:
    stack = sealed.stack
    async with sealed.sealer() as sealer, sealer.running(0.1):
        await sealed.record(3)
        await until(sealed, [3])
        assert stack.vault("PUT", "sys/seal").is_success
        await sealed.record(4)
        await asyncio.sleep(1)
        assert await counts(sealed) == [3]
        unseal_key = json.loads((stack.local.state_dir / "init.json").read_text())["unseal_key"]
        assert stack.vault("PUT", "sys/unseal", {"key": unseal_key}).is_success
        await until(sealed, [3, 4])
        async with asyncio.timeout(60):
            while sealed.anchor() != await sealed.newest():  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.05)
    assert await sealed.found() == set()


async def until(sealed: Trail, wanted: list[int]) -> None:
    async with asyncio.timeout(60):
        while await counts(sealed) != wanted:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.05)


async def test_a_worker_seals_beside_its_jobs(sealed: Trail) -> None:
    settings = sealed.rotator_settings.model_copy(update={"seal_seconds": 0.1})
    async with Rotator.open(settings) as rotator:
        working = asyncio.create_task(rotator.run())
        await sealed.record(3)
        await until(sealed, [3])
        await sealed.record(4)
        await until(sealed, [3, 4])
        rotator.stop()
        await asyncio.wait_for(working, 60)
    assert await sealed.found() == set()


async def test_with_vault_sealed_one_round_fails_and_says_so_and_leaves_no_seal(sealed: Trail) -> None:
    await sealed.record(3)
    with patch.object(TransitEventSigner, "sign", side_effect=VaultSealed), pytest.raises(VaultSealed):
        await sealed.seal()
    assert await counts(sealed) == []


async def test_the_loop_goes_on_after_whatever_went_wrong_and_logs_it_once(
    sealed: Trail, caplog: pytest.LogCaptureFixture
) -> None:
    failures = 0

    async def failing(_signer: object, _digest: bytes) -> Signature:
        nonlocal failures
        failures += 1
        raise RuntimeError("canary-in-a-message")

    await sealed.record(3)
    async with sealed.sealer() as sealer:
        with patch.object(TransitEventSigner, "sign", failing):
            async with sealer.running(0.01), asyncio.timeout(60):
                while failures < 3:  # noqa: ASYNC110 - the loop has no event for it
                    await asyncio.sleep(0.01)
        async with sealer.running(0.01):
            await until(sealed, [3])
    told = [record for record in caplog.records if record.name == "service.modules.event_sealer"]
    assert [record.getMessage() for record in told] == ["sealing events failed"]
    assert "canary-in-a-message" not in caplog.text


async def test_opens_do_not_wait_for_a_seal_under_way(sealed: Trail) -> None:
    somebody, keys, held, opened = Somebody(), pair_of_keys(), asyncio.Event(), asyncio.Event()
    sign = TransitEventSigner.sign

    async def signing(signer: TransitEventSigner, digest: bytes) -> Signature:
        held.set()
        await opened.wait()
        return await sign(signer, digest)

    async with Runtime.open(sealed.settings) as runtime:
        stored = await somebody.store(runtime, keys)
        with patch.object(TransitEventSigner, "sign", signing):
            sealing = asyncio.create_task(sealed.seal())
            await asyncio.wait_for(held.wait(), 30)
            for _ in range(20):
                assert await asyncio.wait_for(somebody.opens(runtime, stored.id), 30) == keys
            assert not sealing.done()
            opened.set()
            await sealing
            await sealed.seal()
    assert await counts(sealed) == [1, 20]
    assert await sealed.found() == set()


async def test_opens_do_not_wait_while_events_are_read_to_be_sealed(sealed: Trail) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    await sealed.record(2000)
    async with Runtime.open(sealed.settings) as runtime, Database.open(sealed.rotator_settings) as database:
        stored = await somebody.store(runtime, keys)
        reading = PostgresSealStore(database).events(EVERYTHING)
        await anext(reading)
        for _ in range(20):
            assert await asyncio.wait_for(somebody.opens(runtime, stored.id), 30) == keys
        await reading.aclose()


async def test_sealing_under_load_covers_every_event_once(sealed: Trail) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    async with Runtime.open(sealed.settings) as runtime, sealed.sealer(most=200) as sealer:
        stored = await somebody.store(runtime, keys)
        async with sealer.running(0.01):
            for _ in range(20):
                opened = await asyncio.gather(*(somebody.opens(runtime, stored.id) for _ in range(64)))
                assert set(opened) == {keys}
        while await sealer.run():
            pass
    report = await sealed.verify()
    assert (report.events, report.problems, report.unsealed.events) == (1281, 0, 0)
    assert report.seals > 2


async def test_the_newest_seal_can_be_told_with_the_services_own_logins(sealed: Trail) -> None:
    """As skew between Vault and Postgres is found."""
    async with Database.open(sealed.settings) as database:
        store = PostgresSealStore(database)
        assert await store.newest_seal() is None
        await sealed.recorded_and_sealed(1, 2)
        assert await store.newest_seal() == await sealed.newest() == await store.seal_mark(2)
        assert await store.seal_mark(3) is None
    assert isinstance(await sealed.newest(), SealMark)
