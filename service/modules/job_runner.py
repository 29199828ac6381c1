"""The loop that does jobs: asks for the next one, gives it a turn, and goes on, whatever trouble there is."""

import asyncio
import logging
from uuid import UUID

from service.errors import (
    CredentialsError,
    KeyNotFound,
    TemporarilyUnavailable,
    VaultDenied,
    VaultLoginFailed,
    VaultRefused,
    in_words,
)
from service.exception_location import exception_location
from service.modules.installation import ensure_same_installation
from service.modules.key_ports import RotationStore
from service.modules.key_records import Job, JobKind, JobReason
from service.modules.key_rotation import KeyRotation
from service.modules.ports import CiphertextStore
from service.modules.rewrap_passes import RewrapPasses, wait

_log = logging.getLogger(__name__)
_LONGEST_WAIT = 15.0


class JobRunner:
    """Does the jobs of this installation, alone or beside other workers.

    Guarantees: a job that meets a Vault that is sealed, or a Postgres that is away, stays as it is and goes on later;
    no error ends the loop; nothing is done where Vault and Postgres don't carry the same installation id. Does not:
    do a job's turns in any order that a job could rely on.
    """

    def __init__(
        self,
        store: RotationStore,
        ciphertexts: CiphertextStore,
        rotation: KeyRotation,
        rewraps: RewrapPasses,
        stopping: asyncio.Event,
        *,
        poll_seconds: float,
    ) -> None:
        """`stopping`: once it is set, what is under way is finished (a batch, a rotation), and nothing more begun."""
        self._store = store
        self._ciphertexts = ciphertexts
        self._rotation = rotation
        self._rewraps = rewraps
        self._stopping = stopping
        self._poll = poll_seconds
        self._begun: UUID | None = None  # the job that was last told of

    async def run(self) -> None:
        """Until `stopping` is set."""
        while not self._stopping.is_set():
            pause = self._poll
            try:
                if await self.step():
                    pause = 0
            except CredentialsError as error:
                pause = max(pause, min(_asks_for(error), _LONGEST_WAIT))
                _log.warning(
                    "a job could not go on; it will be tried again",
                    extra={"error": type(error).__name__, "detail": in_words(error)},
                )
            except Exception as error:  # noqa: BLE001 - one turn's trouble, whatever it is, must not end all turns
                pause = max(pause, 1.0)
                _log.warning("a job's turn failed", extra={"exception": exception_location(error)})
            if pause:
                await wait(self._stopping, pause)

    async def step(self) -> bool:
        """One turn of one job. Returns whether it is of use to come again at once.

        Raises:
            CredentialsError: the job is as far as it is.
        """
        job = await self._store.next_job()
        if job is None:
            return False
        await self.ensure_same_installation()
        if job.id != self._begun:
            self._begun = job.id
            _log.info("at work on a job", extra={"job": str(job.id), "kind": job.kind, "key": job.transit_key})
        try:
            return await self._turn(job)
        except VaultLoginFailed:
            raise  # whoever mends the login wants the job to go on
        except KeyNotFound:
            reason = JobReason.KEY_NOT_FOUND
        except VaultDenied:
            reason = JobReason.VAULT_DENIED
        except VaultRefused:
            reason = JobReason.VAULT_REFUSED
        _log.warning("a job has failed", extra={"job": str(job.id), "kind": job.kind.value, "reason": reason.value})
        return await self._end(job, reason)

    async def ensure_same_installation(self) -> None:
        """Asks Postgres and Vault, and so tries both logins. Raises InstallationMismatch where they differ."""
        await ensure_same_installation(self._store, self._ciphertexts)

    async def _turn(self, job: Job) -> bool:
        if job.kind is JobKind.ROTATE:
            return await self._rotation.rotate(job)
        if job.kind is JobKind.RETIRE:
            return await self._rotation.retire(job)
        if job.stop_requested_by is not None:
            return await self._end(job, JobReason.STOPPED)
        return await self._rewraps.turn(job)

    async def _end(self, job: Job, reason: JobReason) -> bool:
        await self._store.end(job, reason=reason)
        self._rewraps.forget(job)
        return True


def _asks_for(error: CredentialsError) -> float:
    return error.retry_after or 0.0 if isinstance(error, TemporarilyUnavailable) else 0.0
