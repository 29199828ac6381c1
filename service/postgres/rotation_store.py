"""What doing jobs needs of Postgres, as the rotator's role: jobs, rows held by their locks, floors."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from service.errors import DatabaseNotReady, JobNotFound, WriteInterrupted
from service.modules.key_records import Job, JobFailure, KeyDescription, Rewrapped
from service.modules.ports import CallerConnection
from service.modules.records import Credential, WriteIntent
from service.postgres.pool import Database
from service.postgres.queries import SQL
from service.postgres.rows import credential_from, job_from
from service.settings import Settings

_FIRST = UUID(int=0)  # no credential's id; before all of them


class PostgresRewrapBatch:
    """`RewrapBatch`: the transaction that holds the rows, and the means to end it well.

    Guarantees: until the transaction ends nobody else changes these rows; they move, with their events, together or
    not at all. Does not: touch Vault.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        transaction: CallerConnection,
        job: Job,
        credentials: Sequence[Credential],
    ) -> None:
        self.credentials = credentials
        self._database = database
        self._transaction = transaction
        self._job = job
        self._intent_age = settings.intent_age_seconds
        self._discard_hours = settings.previous_secret_hours

    async def begin(self, intents: Sequence[WriteIntent]) -> None:
        await self._database.execute(
            SQL["insert_intents"],
            [intent.id for intent in intents],
            [intent.credential_id for intent in intents],
            [intent.kv_path for intent in intents],
            [intent.kv_version for intent in intents],
            float(self._intent_age),
        )

    async def abandon(self, intents: Sequence[WriteIntent]) -> None:
        await self._database.execute(SQL["delete_intents"], [intent.id for intent in intents])

    async def finish(
        self,
        rewrapped: Sequence[Rewrapped],
        intents: Sequence[WriteIntent],
        failures: Sequence[JobFailure],
        *,
        batch_id: UUID,
    ) -> None:
        if rewrapped:
            await self._move(rewrapped, intents, batch_id)
        if failures:
            await self._transaction.execute(
                SQL["note_failures"],
                self._job.id,
                [failure.credential_id for failure in failures],
                [failure.reason for failure in failures],
                self._job.requested_by,
                batch_id,
                self._job.request_id,
            )
        failed = {failure.credential_id for failure in failures}
        done = [one for one in rewrapped if one.after.id not in failed]
        # Last, as it is the one row that all workers of a job write to.
        await self._transaction.execute(SQL["count_rewrapped"], self._job.id, len(done), len(failed))

    async def _move(self, rewrapped: Sequence[Rewrapped], intents: Sequence[WriteIntent], batch_id: UUID) -> None:
        gone = await self._transaction.fetch(SQL["delete_intents"], [intent.id for intent in intents])
        if len(gone) < len(intents):
            raise WriteInterrupted  # reconciliation has taken one, and may have removed what it stood for
        after = [one.after for one in rewrapped]
        await self._transaction.fetch(
            SQL["move_rewrapped"],
            [row.id for row in after],
            [row.reference.kv_version for row in after],
            [row.reference.transit_key_version for row in after],
            [row.previous.kv_version if row.previous else None for row in after],
            [row.previous.transit_key_version if row.previous else None for row in after],
            self._discard_hours,
            self._job.requested_by,
            batch_id,
            self._job.request_id,
        )


class PostgresRotationStore:
    """`RotationStore` on Postgres.

    Guarantees: a job ends once, with its event; no row is in two workers' batches at a time. Does not: wait for rows
    that somebody else holds; a later pass finds them.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    async def installation_id(self) -> UUID | None:
        row = await self._database.fetchrow(SQL["installation_id"])
        return None if row is None else row["id"]

    async def next_job(self) -> Job | None:
        row = await self._database.fetchrow(SQL["next_job"])
        return None if row is None else job_from(row)

    async def note_start(self, job: Job, *, from_version: int | None, to_version: int | None) -> Job:
        row = await self._database.fetchrow(SQL["note_job_start"], job.id, from_version, to_version)
        if row is None:
            raise JobNotFound
        return job_from(row)

    async def note_versions(self, key: KeyDescription) -> None:
        await self._database.execute(SQL["note_key_versions"], key.name, list(key.created), list(key.created.values()))

    async def job(self, job_id: UUID) -> Job:
        row = await self._database.fetchrow(SQL["get_job"], job_id)
        if row is None:
            raise JobNotFound
        return job_from(row)

    @asynccontextmanager
    async def hold(self, job: Job) -> AsyncIterator[bool]:
        async with self._database.transaction() as transaction:
            row = await transaction.fetchrow(SQL["hold_job"], str(job.id))
            yield bool(row[0])

    async def end(self, job: Job, *, reason: str | None, to_version: int | None = None) -> None:
        await self._database.execute(SQL["end_job"], job.id, reason, to_version)

    @asynccontextmanager
    async def take(
        self, job: Job, to_version: int, after: UUID | None, limit: int
    ) -> AsyncIterator[PostgresRewrapBatch]:
        async with self._database.transaction() as transaction:
            rows = await transaction.fetch(
                SQL["take_rewrap"], job.transit_key, to_version, after or _FIRST, job.id, limit
            )
            credentials = [credential_from(row) for row in rows]
            yield PostgresRewrapBatch(self._database, self._settings, transaction, job, credentials)

    async def remaining(self, job: Job, to_version: int) -> int:
        row = await self._database.fetchrow(SQL["count_remaining"], job.transit_key, to_version, job.id)
        return int(row[0])

    async def raise_floor(self, job: Job, key: str, version: int) -> int:
        async with self._database.transaction() as transaction:
            if await transaction.fetchrow(SQL["hold_floor"], key) is None:
                raise DatabaseNotReady
            # A statement of its own, so that it sees what those have committed that the lock has waited for.
            row = await transaction.fetchrow(SQL["count_below"], key, version)
            if row[0]:
                await transaction.execute(SQL["note_still_needed"], job.id, key, version, row[0])
            else:
                await transaction.execute(SQL["raise_floor"], key, version)
            return int(row[0])
