"""What rotation needs from outside, as protocols, like `ports.py`. Errors as there."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol
from uuid import UUID

from service.modules.key_records import Job, JobFailure, JobKind, KeyDescription, Rewrapped, VersionUse
from service.modules.records import Credential, KeyAdminAccess, Seal, WriteIntent


class KeyReader(Protocol):
    """Vault's transit keys, described."""

    async def describe(self, key: str) -> KeyDescription:
        """Raises KeyNotFound where Vault has no such key."""
        ...


class KeyRing(KeyReader, Protocol):
    """Vault's transit keys, as the rotator. It has no way to decrypt."""

    async def rotate(self, key: str) -> None:
        """Makes a new version. Never tried twice."""
        ...

    async def rewrap(self, key: str, items: Sequence[tuple[str, bytes]], *, batch_id: UUID) -> list[Seal | Exception]:
        """The same plaintexts under the key's newest version, inside Vault; `(ciphertext, context)` each, in order.

        Items fail as those of `Cipher.decrypt`. `batch_id` goes to Vault's audit log, as there.
        """
        ...

    async def set_min_decryption_version(self, key: str, version: int) -> None:
        """Has Vault refuse to decrypt anything below. Safe to repeat."""
        ...


class KeyStore(Protocol):
    """What Postgres knows of keys and jobs, as the runtime's role: it reads, and asks for jobs."""

    async def version_uses(self, key: str) -> list[VersionUse]:
        """Every version that something is encrypted under, oldest first."""
        ...

    async def encryptions(self, key: str, version: int) -> int:
        """How many encryptions under this version there are events of."""
        ...

    async def floor(self, key: str) -> int:
        """The lowest version that may be written. Raises KeyNotFound where the key is not this installation's."""
        ...

    async def noted_versions(self, key: str) -> Mapping[int, datetime]:
        """When which version was made, of all that `RotationStore.note_versions` has noted."""
        ...

    async def request(
        self, access: KeyAdminAccess, kind: JobKind, key: str, *, below_version: int | None = None
    ) -> Job:
        """A new job, or the one of this kind that is under way for the key.

        Raises:
            JobUnderWay: the one that is under way asks for something else, or is being stopped. KeyNotFound.
        """
        ...

    async def job(self, job_id: UUID) -> Job:
        """Raises JobNotFound."""
        ...

    async def jobs(self, key: str, limit: int) -> list[Job]:
        """A key's jobs, newest first."""
        ...

    async def failures(self, job_id: UUID, limit: int) -> list[JobFailure]:
        """What a job could not do, or what was in its way."""
        ...

    async def request_stop(self, access: KeyAdminAccess, job_id: UUID) -> Job:
        """Asks whoever works on it to stop. Of a job that is over nothing changes. Raises JobNotFound."""
        ...


class RewrapBatch(Protocol):
    """Some rows that a rewrap holds by their locks, until the block of `RotationStore.take` ends."""

    credentials: Sequence[Credential]

    async def begin(self, intents: Sequence[WriteIntent]) -> None:
        """Commits the intents, over another connection."""
        ...

    async def abandon(self, intents: Sequence[WriteIntent]) -> None:
        """Forgets intents whose KV versions were never written."""
        ...

    async def finish(
        self,
        rewrapped: Sequence[Rewrapped],
        intents: Sequence[WriteIntent],
        failures: Sequence[JobFailure],
        *,
        batch_id: UUID,
    ) -> None:
        """The end of the transaction: rows to their new pins, an event each, the intents of what they pin now out,
        failures and the job's count noted. To be called once, last.

        What was pinned before is left to reconciliation, due when a kept secret would be. Raises WriteInterrupted
        where an intent is gone: then every row stays as it was.
        """
        ...


class RotationStore(Protocol):
    """Postgres, as the rotator's role."""

    async def installation_id(self) -> UUID | None: ...

    async def next_job(self) -> Job | None:
        """The job that has waited longest for a turn, now running. Several workers may get the same one."""
        ...

    async def note_start(self, job: Job, *, from_version: int | None, to_version: int | None) -> Job:
        """Commits, once for a job, what it began from, and how many credentials it is about. Returns it as it is."""
        ...

    async def note_versions(self, key: KeyDescription) -> None:
        """Commits when each version was made that Vault tells a date of: later it won't, of a retired or trimmed one.

        Of a version noted before nothing changes: where Vault was restored and made it anew, the first one's date
        stays. That shows only once Vault tells no date of the version itself.
        """
        ...

    async def job(self, job_id: UUID) -> Job:
        """As it is now, with a stop that was asked for meanwhile. Raises JobNotFound."""
        ...

    def hold(self, job: Job) -> AbstractAsyncContextManager[bool]:
        """Keeps other workers from holding this job, until the block or this process ends. False: one of them has it.

        A rewrap isn't held: many may share it.
        """
        ...

    async def end(self, job: Job, *, reason: str | None, to_version: int | None = None) -> None:
        """Ends a job, with its event; failed where there is a reason. Of one that is over nothing changes."""
        ...

    def take(
        self, job: Job, to_version: int, after: UUID | None, limit: int
    ) -> AbstractAsyncContextManager[RewrapBatch]:
        """Locks up to `limit` of the key's rows below `to_version` (their kept secrets included), by id, after `after`.

        Rows that another worker holds, and those this job has failed on, are passed by. The transaction is rolled back
        where the block ends with an exception.
        """
        ...

    async def remaining(self, job: Job, to_version: int) -> int:
        """How many rows are below, but for those that this job has failed on."""
        ...

    async def raise_floor(self, job: Job, key: str, version: int) -> int:
        """Under the floor's lock: counts what is below and, where nothing is, raises the floor, and commits.

        Returns the count. Where it is not 0, nothing is changed and the first hundred are noted as the job's failures.
        """
        ...
