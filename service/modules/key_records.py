"""What rotation talks about: transit keys, what is encrypted under their versions, and jobs. None holds a secret."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from service.modules.records import Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDescription:
    """A transit key, as Vault describes it: never key material.

    `created` has the versions from `min_decryption_version` on; Vault tells no dates of those below.
    """

    name: str
    latest_version: int
    min_decryption_version: int
    min_encryption_version: int  # 0: only the newest
    min_available_version: int  # 0: none has been trimmed
    auto_rotate_period: timedelta | None
    created: Mapping[int, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionUse:
    """How much is encrypted under one version of a key."""

    version: int
    credentials: int
    previous_secrets: int  # kept for a rollback
    oldest_id: UUID | None  # of the credentials, by the time it was first stored
    oldest_created_at: datetime | None


class JobKind(StrEnum):
    """What a job does."""

    ROTATE = "rotate"
    REWRAP = "rewrap"
    RETIRE = "retire"


class JobState(StrEnum):
    """How far it is. A job that was stopped has failed, with the reason `stopped`."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED)


class JobReason(StrEnum):
    """Why a job has failed."""

    STOPPED = "stopped"
    SOME_FAILED = "some_failed"  # a rewrap: all but those in its failures were done
    STILL_NEEDED = "still_needed"  # a retirement: of those that are still below, the first hundred are in its failures
    NO_SUCH_VERSION = "no_such_version"  # a retirement below what there isn't yet
    VAULT_KEEPS_ENCRYPTING = "vault_keeps_encrypting"  # a retirement above the key's min_encryption_version
    SKEW = "skew"  # a retirement: Vault and Postgres are of different moments, see `skew`
    KEY_NOT_FOUND = "key_not_found"
    VAULT_DENIED = "vault_denied"  # the rotator's policy doesn't allow it
    VAULT_REFUSED = "vault_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of `jobs`."""

    id: UUID
    kind: JobKind
    transit_key: str
    below_version: int | None
    state: JobState
    requested_by: str
    request_id: str | None
    requested_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    ended_at: datetime | None
    stop_requested_by: str | None
    from_version: int | None
    to_version: int | None
    total: int | None
    done: int
    failed: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class JobFailure:
    """A credential that a job could not do, or that is in a retirement's way."""

    credential_id: UUID
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapped:
    """What came of one credential: its row as it is to be, with new pins. A pin that stays as it was is unchanged."""

    before: Credential
    after: Credential
