"""Asking for rotations, rewraps and retirements. They are done by whoever has the rotator's login (`job_runner`)."""

import asyncio
import time

from service.errors import InvalidInput, JobFailed, VersionsStillNeeded
from service.modules.input_checks import uuid_from
from service.modules.key_inventory import KeyAccess, KeyInventory
from service.modules.key_ports import KeyStore
from service.modules.key_records import Job, JobFailure, JobKind, JobReason, JobState
from service.modules.records import KeyAdminAccess

MAX_FAILURES = 100
"""Of a job, so many credentials that it failed on, or found in its way, are told."""

_FIRST_POLL, _LONGEST_POLL = 0.05, 0.5

_RAISE_FIRST = (
    "is above the key's min_encryption_version; raise that first: "
    "vault write <mount>/keys/<name>/config min_encryption_version=<version>"
)


class KeyJobs:
    """Makes jobs, and waits a while for those that are quick.

    Guarantees: asked for at once by several, a job is made once, and each of them gets its end. Does not: do any of
    it; where no worker runs, a job waits, and so it is returned, until one does. `wait_seconds`: how long rotations
    and retirements are waited for.
    """

    def __init__(self, store: KeyStore, inventory: KeyInventory, *, wait_seconds: float) -> None:
        self._store = store
        self._inventory = inventory
        self._wait_seconds = wait_seconds

    async def rotate(self, access: KeyAdminAccess, name: str) -> Job:
        """Has a new version of the key made. The job as it is when it is over, or when waiting has ended.

        Raises:
            KeyNotFound. JobUnderWay: a rotation is being stopped. JobFailed: it could not be done.
        """
        return await self._waited_for(await self._store.request(access, JobKind.ROTATE, self._inventory.checked(name)))

    async def rewrap(self, access: KeyAdminAccess, name: str) -> Job:
        """Has everything under older versions encrypted under the newest, inside Vault. Returns at once.

        Raises:
            KeyNotFound. JobUnderWay: a rewrap is being stopped.
        """
        return await self._store.request(access, JobKind.REWRAP, self._inventory.checked(name))

    async def retire(self, access: KeyAdminAccess, name: str, below_version: int) -> Job:
        """Has Vault decrypt nothing any more that is under a version below this one. Returns as `rotate`.

        Raises:
            KeyNotFound. InvalidInput: above the key's newest version or its min_encryption_version, or below what has
                been retired before.
            VersionsStillNeeded: something is under a version below. JobUnderWay: another retirement is. JobFailed.
        """
        status = await self._inventory.key(access, name)
        if below_version > status.vault.latest_version:
            raise InvalidInput("below_version", "must not be above the key's newest version")
        if below_version < status.floor:
            raise InvalidInput("below_version", "must not be below what has been retired already")
        if 0 < status.vault.min_encryption_version < below_version:
            # Vault would refuse, after the floor was raised. Trimming sets it, and the rotator may not.
            raise InvalidInput("below_version", _RAISE_FIRST)
        job = await self._store.request(access, JobKind.RETIRE, name, below_version=below_version)
        return await self._waited_for(job)

    async def job(self, _access: KeyAccess, job_id: str) -> tuple[Job, list[JobFailure]]:
        """A job, and the first hundred credentials it failed on. Raises InvalidInput, JobNotFound."""
        job = await self._store.job(uuid_from("job_id", job_id))
        return job, await self._store.failures(job.id, MAX_FAILURES)

    async def stop(self, access: KeyAdminAccess, job_id: str) -> Job:
        """Asks whoever works on it to stop; of a job that is over nothing changes. Raises InvalidInput, JobNotFound."""
        return await self._store.request_stop(access, uuid_from("job_id", job_id))

    async def _waited_for(self, job: Job) -> Job:
        # Not by a time-out, which would cut a statement off half-way.
        pause, ends_at = _FIRST_POLL, time.monotonic() + self._wait_seconds
        while not job.state.is_over:
            if time.monotonic() >= ends_at:
                return job
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)
            job = await self._store.job(job.id)
        if job.state is JobState.DONE:
            return job
        if job.reason == JobReason.STILL_NEEDED:
            in_the_way = [failure.credential_id for failure in await self._store.failures(job.id, MAX_FAILURES)]
            raise VersionsStillNeeded(count=max(job.failed, len(in_the_way)), credential_ids=in_the_way)
        raise JobFailed(job_id=job.id)
