"""The seals in Postgres, and the events as they are sealed."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from service.errors import DatabaseNotReady
from service.modules.event_chain import EventRange, EventSeal, SealedEvent, SealMark, time_of
from service.modules.event_ports import EventTable, Horizon, Segment, UnsealedEvents
from service.postgres.pool import Database
from service.postgres.queries import SQL

_PAGE = 500
"""Events at a time: a few milliseconds of hashing, after which others have their turn."""


class PostgresSealStore:
    """`SealStore` and `SealArchive` on Postgres.

    `as_auditor`: each transaction takes on the auditor's role; without it the login reads events itself, as the
    rotator's does, or asks for marks alone, as the runtime's does.

    Guarantees: `events` holds one page of them in memory. Does not: show several calls the same moment; an event of a
    transaction below `Horizon.oldest_xid` is in all that come after.
    """

    def __init__(self, database: Database, *, as_auditor: bool = False) -> None:
        self._database = database
        self._as_auditor = as_auditor

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        async with self._database.transaction() as conn:
            if self._as_auditor:
                await conn.execute(SQL["become_auditor"])
            yield conn

    async def _row(self, query: str, *args: object) -> Any:
        async with self._transaction() as conn:
            return await conn.fetchrow(query, *args)

    async def tables(self) -> list[EventTable]:
        async with self._transaction() as conn:
            return [EventTable(**dict(row)) for row in await conn.fetch(SQL["event_tables"])]

    async def events(self, wanted: EventRange) -> AsyncGenerator[Sequence[SealedEvent]]:
        async with self._transaction() as conn:
            cursor = await conn.cursor(
                SQL["events_of_seals"], wanted.from_xid, wanted.upto_xid, wanted.after_id, wanted.until_id
            )
            while rows := await cursor.fetch(_PAGE):
                yield [SealedEvent(*row) for row in rows]

    async def horizon(self) -> Horizon:
        row = await self._row(SQL["horizon"])
        if row["installation_id"] is None:
            raise DatabaseNotReady
        return Horizon(**dict(row))

    async def newest(self) -> EventSeal | None:
        row = await self._row(SQL["newest_seal"])
        return None if row is None else _seal_from(row)

    async def newest_seal(self) -> SealMark | None:
        row = await self._row(SQL["newest_seal_mark"])
        return None if row is None else SealMark(*row)

    async def seal_mark(self, number: int) -> SealMark | None:
        row = await self._row(SQL["seal_mark"], number)
        return None if row is None else SealMark(*row)

    async def add(self, seal: EventSeal) -> bool:
        try:
            await self._database.execute(
                SQL["add_seal"],
                seal.number,
                time_of(seal.sealed_at),
                seal.cluster_id,
                seal.after_id,
                seal.upto_id,
                seal.from_xid,
                seal.upto_xid,
                seal.events,
                seal.events_sha256,
                seal.sha256,
                seal.key_version,
                seal.signature,
            )
        except asyncpg.UniqueViolationError:
            return False
        return True

    async def greatest_id(self, *, from_xid: int, after_id: int, below_id: int | None = None) -> int | None:
        row = await self._row(SQL["greatest_event_id"], from_xid, after_id, below_id)
        found: int | None = row["id"]
        return found

    async def least_id(self, *, below_xid: int, after_id: int) -> int | None:
        row = await self._row(SQL["least_event_id"], below_xid, after_id)
        found: int | None = row["id"]
        return found

    async def seals(self, after: int, upto: int, limit: int) -> list[EventSeal]:
        async with self._transaction() as conn:
            return [_seal_from(row) for row in await conn.fetch(SQL["seals"], after, upto, limit)]

    async def segment_starts(self, limit: int) -> list[int]:
        async with self._transaction() as conn:
            return [row["after_id"] for row in await conn.fetch(SQL["seal_segments"], limit)]

    async def outside(self, segments: Sequence[Segment]) -> int:
        row = await self._row(
            SQL["events_outside"],
            [each.after_id for each in segments],
            [each.until_id for each in segments],
            [each.upto_xid for each in segments],
        )
        return int(row["events"])

    async def unsealed(self, after_id: int, from_xid: int, since_id: int) -> UnsealedEvents:
        row = await self._row(SQL["unsealed_events"], after_id, from_xid, since_id)
        return UnsealedEvents(**dict(row))


def _seal_from(row: Any) -> EventSeal:
    return EventSeal(
        number=row["number"],
        sealed_at=int.from_bytes(row["sealed_at"], "big", signed=True),
        cluster_id=row["cluster_id"],
        after_id=row["after_id"],
        upto_id=row["upto_id"],
        from_xid=row["from_xid"],
        upto_xid=row["upto_xid"],
        events=row["events"],
        events_sha256=row["events_sha256"],
        sha256=row["seal_sha256"],
        key_version=row["key_version"],
        signature=row["signature"],
    )
