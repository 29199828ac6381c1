"""What the domain talks about: plain, frozen values. None holds a secret."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

AccountType = Literal["paper", "live"]
"""What an account's orders are worth: nothing, or money. An account whose type is not known counts as live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerAccess:
    """The right to act on one user's credentials. Made by `authz.policy`, or by the library's front door.

    A function that takes one can only reach what belongs to `user_id`.
    """

    user_id: str
    actor: str
    request_id: str | None = None
    account_type: AccountType | None = None  # of what is saved or used, by settings, role or request; None: any


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditAccess:
    """The right to read everybody's metadata and events, and nothing else."""

    actor: str
    request_id: str | None = None


ReadAccess = OwnerAccess | AuditAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReadAccess:
    """The right to see transit keys, what is encrypted under them and the jobs about them; to change nothing."""

    actor: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAdminAccess:
    """The right to have transit keys rotated, credentials rewrapped and key versions retired. Of no secret."""

    actor: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspensionReadAccess:
    """The right to see who is suspended; to change nothing."""

    actor: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspensionAccess:
    """The right to suspend users and accounts, and to lift that. Of no secret."""

    actor: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportAccess:
    """The right to store credentials for the users that a source names, and to have them compared with the source.

    Of no secret: what is opened to be compared goes nowhere else. `account_type` as of an `OwnerAccess`.
    """

    actor: str
    request_id: str | None = None
    account_type: AccountType | None = None


class Action(StrEnum):
    """What an event says was done."""

    STORE = "store"
    OPEN = "open"
    RESEAL = "reseal"  # opened by an update that changes one of the two keys, or by a rollback
    UPDATE = "update"
    ROLLBACK = "rollback"
    ENABLE = "enable"
    DISABLE = "disable"
    VALIDATE = "validate"
    DELETE = "delete"
    IMPORT = "import"  # opened to be compared with what it is imported from; that it was stored is a `store`
    RECONCILE = "reconcile"
    HAND_OFF = "handoff"  # a wrapping token was asked for; failed: the client could not unwrap it
    PROXY = "proxy"  # a call that reads
    TRADE = "trade"  # any other proxied call
    SUSPECT = "suspect"  # the provider refused the keys, in a validation or a call
    CLEAR = "clear"  # a suspect's keys were accepted
    SUSPEND = "suspend"  # of a user or an account, as `resume`: there is no credential in such an event
    RESUME = "resume"
    ROTATE = "rotate"  # of a key, as `retire`: there is no credential in such an event
    REWRAP = "rewrap"
    RETIRE = "retire"


class Outcome(StrEnum):
    """How it ended. `granted` and `denied` are of opens; a `granted` one may be followed by a `failed` one."""

    GRANTED = "granted"
    DENIED = "denied"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousSecret:
    """The secret before the last update, kept until `expires_at`."""

    kv_version: int
    secret_version: int
    transit_key_version: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitReference:
    """Where a credential's ciphertext is, and what it takes to have it decrypted."""

    transit_mount: str
    transit_key: str
    transit_key_version: int
    binding: bytes = field(repr=False)  # 32 random bytes: half of the derivation context's secret
    kv_mount: str
    kv_path: str
    kv_version: int
    secret_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One row of `credentials`."""

    id: UUID
    user_id: str
    account_id: UUID
    credential_type: str
    account_type: AccountType | None
    is_active: bool
    reference: TransitReference
    previous: PreviousSecret | None
    row_version: int
    validation_state: str
    last_validated_at: datetime | None
    last_used_at: datetime | None
    suspect_since: datetime | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def secret_version(self) -> int:
        return self.reference.secret_version

    @property
    def transit_key(self) -> str:
        return self.reference.transit_key

    @property
    def transit_key_version(self) -> int:
        return self.reference.transit_key_version

    @property
    def pinned_versions(self) -> set[int]:
        """The KV versions that this row needs."""
        return {self.reference.kv_version} | ({self.previous.kv_version} if self.previous else set())

    @property
    def can_roll_back(self) -> bool:
        return self.previous is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """What `AccessLog.authorise_opens` is asked: may this user have this credential opened?"""

    credential_id: UUID | None  # None: what was asked for is no UUID; it is denied, and recorded
    access: OwnerAccess
    action: Action = Action.OPEN
    credential_type: str | None = None  # None: any
    allow_inactive: bool = False
    previous: bool = False  # the secret before the last update
    # Looks at what was granted, before it is decrypted; what it raises (a CredentialsError) is the opening's failure.
    accept: Callable[[Credential], None] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event to record, about a credential that is known."""

    access: OwnerAccess
    credential_id: UUID
    account_id: UUID
    action: Action
    outcome: Outcome
    owner: str | None = None  # whose credential; by default the access's user
    reason: str | None = None
    transit_key: str | None = None
    transit_key_version: int | None = None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """One row of `credential_events`."""

    id: int
    at: datetime
    credential_id: UUID | None
    user_id: str | None
    account_id: UUID | None
    acting_user: str | None  # None: done for nobody in particular, as a rewrap is
    actor: str
    action: str
    outcome: str
    reason: str | None
    transit_key: str | None
    transit_key_version: int | None
    batch_id: UUID | None
    request_id: str | None


class IdPast(StrEnum):
    """What is known of a credential's id that no row has."""

    UNKNOWN = "unknown"
    DELETED = "deleted"
    """A credential of this id was deleted. As far back as events are kept."""
    BEING_DELETED = "being deleted"
    """Something of it is still to be removed from KV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteIntent:
    """A KV version that is about to be written (`kv_version`), or a path about to be deleted (None).

    `id_was_given`: whoever imports the credential has named its id, so that others may be writing to the same new path,
    or have done so and deleted it.
    """

    id: UUID
    credential_id: UUID
    kv_path: str
    kv_version: int | None
    id_was_given: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldIntent:
    """An intent that reconciliation holds: its credential's row, and whether it is its path's only intent.

    `shared`: another intent is for the same KV version.
    """

    credential: Credential | None
    alone: bool
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """One encrypted pair, not yet written."""

    ciphertext: str
    transit_key_version: int


@dataclass(frozen=True, slots=True)
class Mac:
    """An HMAC by Vault, and the version of the key that made it."""

    key_version: int
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """One use of an Idempotency-Key. The body is held as an HMAC under a key that only Vault has."""

    actor: str
    user_id: str
    route: str
    key: str
    body_mac: Mac
    credential_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFilter:
    """Which credentials a list is to hold; None: all."""

    account_id: UUID | None = None
    credential_type: str | None = None
    is_active: bool | None = None
    updated_before: datetime | None = None
    validated: bool | None = None  # whether the provider has ever been asked about the present keys
    used: bool | None = None  # whether it has ever been opened
    suspect: bool | None = None  # whether its provider refuses the keys


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events a list is to hold; None: all."""

    credential_id: UUID | None = None
    user_id: str | None = None
    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last item of a page, in the order that pages go (newest first). Rows that come or go don't move it."""

    at: datetime
    id: UUID | int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderVerdict:
    """What a provider said of a pair of keys."""

    is_valid: bool
    account_type: AccountType | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """Nobody may use this user's credentials, or this account's (one of the two is given)."""

    id: UUID
    user_id: str | None
    account_id: UUID | None
    reason: str | None
    suspended_by: str
    suspended_at: datetime
    credentials: int | None = None
    """How many it is about, active or not, 1001 for any more; None: that could not be counted."""
