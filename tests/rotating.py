"""What tests of rotation share: jobs as operators ask for them, whoever does them, and what is to hold afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from service.composition import Runtime
from service.modules.key_records import Job
from service.postgres.rows import job_from
from service.rotator import Rotator
from service.settings import Settings
from tests.support import Stack
from tests.written import Connection, Pair, Somebody, live_versions, pair_of_keys

KEY = "credentials-alpaca"
ACTOR = "operator:olga"


@asynccontextmanager
async def rotator_of(settings: Settings) -> AsyncIterator[Rotator]:
    """What does the jobs, on these settings' stack."""
    own = settings.as_rotator()
    assert own is not None
    async with Rotator.open(own) as opened:
        yield opened


async def clear(stack: Stack, conn: Connection) -> None:
    """Takes away all credentials and jobs, so that a job is about a test's own alone."""
    await conn.execute("DELETE FROM jobs")
    for row in await conn.fetch("DELETE FROM credentials RETURNING account_id, id"):
        stack.vault("DELETE", f"credentials/metadata/{row['account_id']}/{row['id']}")
    await conn.execute("DELETE FROM write_intents")


async def ask(conn: Connection, kind: str, *, key: str = KEY, below: int | None = None) -> UUID:
    """A new job, as the service inserts it."""
    job_id: UUID = await conn.fetchval(
        "INSERT INTO jobs (kind, transit_key, below_version, requested_by, request_id)"
        " VALUES ($1, $2, $3, $4, 'request-1') RETURNING id",
        kind,
        key,
        below,
        ACTOR,
    )
    return job_id


async def job(conn: Connection, job_id: UUID) -> Job:
    """The job as it is now."""
    return job_from(await conn.fetchrow("SELECT * FROM jobs WHERE id = $1", job_id))


async def finish(rotator: Rotator, conn: Connection, job_id: UUID, *, turns: int = 200) -> Job:
    """Gives turns to whatever job is next until this one is over."""
    for _ in range(turns):
        found = await job(conn, job_id)
        if found.state.is_over:
            return found
        if not await rotator.runner.step():
            await asyncio.sleep(0.05)
    raise AssertionError("the job does not end")


async def over(conn: Connection, job_id: UUID, *, within: float = 60) -> Job:
    """Waits for somebody else to end it."""
    until = asyncio.get_running_loop().time() + within
    while not (found := await job(conn, job_id)).state.is_over:
        assert asyncio.get_running_loop().time() < until, "the job does not end"
        await asyncio.sleep(0.05)
    return found


async def do(rotator: Rotator, conn: Connection, kind: str, **given: Any) -> Job:
    """Asks for a job and does it."""
    return await finish(rotator, conn, await ask(conn, kind, **given))


@dataclass(frozen=True)
class Kept:
    """A credential, and what it is to open as."""

    somebody: Somebody
    id: UUID
    keys: Pair
    previous: Pair | None = None

    @property
    def path(self) -> str:
        return f"{self.somebody.account_id}/{self.id}"


async def some_credentials(runtime: Runtime, count: int, *, updated: int = 0) -> list[Kept]:
    """Credentials of different users; the first `updated` of them have a kept secret."""

    async def one(has_kept: bool) -> Kept:
        somebody, keys = Somebody(), pair_of_keys()
        stored = await somebody.store(runtime, keys)
        if not has_kept:
            return Kept(somebody, stored.id, keys)
        newer = pair_of_keys()
        await somebody.update(runtime, stored.id, *newer)
        return Kept(somebody, stored.id, newer, keys)

    return list(await asyncio.gather(*(one(number < updated) for number in range(count))))


async def one(conn: Connection, query: str, *arguments: Any) -> Any:
    """The first row of an answer that has one."""
    found = await conn.fetchrow(query, *arguments)
    assert found is not None
    return found


async def rows(conn: Connection, kept: list[Kept]) -> dict[UUID, Any]:
    """Their rows."""
    found = await conn.fetch("SELECT * FROM credentials WHERE id = ANY($1)", [each.id for each in kept])
    return {row["id"]: row for row in found}


async def assert_all_open(runtime: Runtime, kept: list[Kept]) -> None:
    """Each opens as what it is."""
    for each in kept:
        assert await each.somebody.opens(runtime, each.id) == each.keys


async def assert_moved(stack: Stack, conn: Connection, kept: list[Kept], version: int) -> None:
    """Rows, ciphertexts and annotations are at the version, and every live KV version is pinned or accounted for."""
    for each in kept:
        row = (await rows(conn, [each]))[each.id]
        assert row["transit_key_version"] == version
        pinned = {row["kv_version"]}
        if each.previous is not None:
            assert row["previous_transit_key_version"] == version
            pinned.add(row["previous_kv_version"])
        for number in pinned:
            found = stack.vault("GET", f"credentials/data/{each.path}?version={number}").json()
            assert found["data"]["data"]["ciphertext"].startswith(f"vault:v{version}:")
        told = stack.vault("GET", f"credentials/metadata/{each.path}").json()["data"]["custom_metadata"]
        assert told["transit_key_version"] == str(version)
        assert told["secret_version"] == str(row["secret_version"])
        intents = await conn.fetch("SELECT kv_version FROM write_intents WHERE kv_path = $1", each.path)
        assert live_versions(stack, each.path) - pinned <= {row["kv_version"] for row in intents}


async def assert_reconciled(stack: Stack, runtime: Runtime, conn: Connection) -> None:
    """With every intent due, reconciliation mends it all: KV has what rows pin and nothing else."""
    await conn.execute("UPDATE write_intents SET due_at = now() - interval '1 second'")
    report = await runtime.reconciler.run(apply=True)
    assert report.failed == 0
    assert await conn.fetchval("SELECT count(*) FROM write_intents") == 0
    for row in await conn.fetch("SELECT * FROM credentials"):
        assert live_versions(stack, row["kv_path"]) == {row["kv_version"], row["previous_kv_version"]} - {None}
    scanned = await runtime.reconciler.scan(apply=False)
    assert (scanned.broken, scanned.unaccounted) == ([], [])


def newest_version(stack: Stack, key: str = KEY) -> int:
    """The key's, as Vault says."""
    return int(stack.vault("GET", f"transit/keys/{key}").json()["data"]["latest_version"])
