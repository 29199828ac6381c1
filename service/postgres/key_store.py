"""What Postgres knows of transit keys and of the jobs about them, as the runtime's role."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from service.errors import JobNotFound, JobUnderWay, KeyNotFound
from service.modules.key_records import Job, JobFailure, JobKind, VersionUse
from service.modules.records import KeyAdminAccess
from service.postgres.pool import Database
from service.postgres.queries import SQL
from service.postgres.rows import job_from

_TRIES = 5


class PostgresKeyStore:
    """`KeyStore` on Postgres.

    Guarantees: asked for at once by several, a job is made once (the index `jobs_under_way`). Does not: rotate, rewrap
    or retire anything: the runtime's role may only ask.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def version_uses(self, key: str) -> list[VersionUse]:
        return [VersionUse(**dict(row)) for row in await self._database.fetch(SQL["key_version_uses"], key)]

    async def encryptions(self, key: str, version: int) -> int:
        async with self._database.transaction() as conn:
            await conn.execute(SQL["become_auditor"])
            row = await conn.fetchrow(SQL["key_encryptions"], key, version)
        return int(row[0])

    async def floor(self, key: str) -> int:
        row = await self._database.fetchrow(SQL["key_floor"], key)
        if row is None:
            raise KeyNotFound
        return int(row["min_version"])

    async def noted_versions(self, key: str) -> Mapping[int, datetime]:
        return {row["version"]: row["created_at"] for row in await self._database.fetch(SQL["key_versions"], key)}

    async def request(
        self, access: KeyAdminAccess, kind: JobKind, key: str, *, below_version: int | None = None
    ) -> Job:
        for _ in range(_TRIES):
            row = await self._database.fetchrow(
                SQL["request_job"], kind.value, key, below_version, access.actor, access.request_id
            )
            if row is not None:
                return job_from(row)
            await self.floor(key)
            under_way = await self._database.fetchrow(SQL["job_under_way"], key, kind.value)
            if under_way is not None:
                job = job_from(under_way)
                if job.below_version != below_version or job.stop_requested_by is not None:
                    raise JobUnderWay
                return job
            # It ended between the two statements, so there is room for a new one.
        raise JobUnderWay

    async def job(self, job_id: UUID) -> Job:
        row = await self._database.fetchrow(SQL["get_job"], job_id)
        if row is None:
            raise JobNotFound
        return job_from(row)

    async def jobs(self, key: str, limit: int) -> list[Job]:
        return [job_from(row) for row in await self._database.fetch(SQL["page_jobs"], key, limit)]

    async def failures(self, job_id: UUID, limit: int) -> list[JobFailure]:
        rows = await self._database.fetch(SQL["job_failures"], job_id, limit)
        return [JobFailure(row["credential_id"], row["reason"]) for row in rows]

    async def request_stop(self, access: KeyAdminAccess, job_id: UUID) -> Job:
        row = await self._database.fetchrow(SQL["request_stop"], job_id, access.actor)
        return await self.job(job_id) if row is None else job_from(row)
