"""What the domain needs from outside, as protocols: `vault/`, `postgres/` and `providers/` implement them.

Every method may raise `TemporarilyUnavailable`'s kinds from `errors.py`; others are named where they can occur.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from service.memory.plaintext import Plaintext
from service.modules.records import (
    AccountType,
    Action,
    Credential,
    CredentialFilter,
    Cursor,
    Event,
    EventFilter,
    HeldIntent,
    IdempotencyRecord,
    IdPast,
    Mac,
    OpenRequest,
    OwnerAccess,
    ProviderVerdict,
    ReadAccess,
    RecordedEvent,
    Seal,
    WriteIntent,
)
from service.modules.skew_records import PathDescription


class CallerConnection(Protocol):
    """What is used of a caller's own asyncpg connection."""

    def is_in_transaction(self) -> bool: ...
    def transaction(self) -> Any: ...
    async def fetch(self, query: str, *args: Any) -> list[Any]: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str, *args: Any) -> str: ...
    async def executemany(self, command: str, args: Any) -> None: ...


class Cipher(Protocol):
    """Vault's transit engine. Batches go in and come out in order; a bad item fails alone."""

    async def encrypt(
        self, key: str, items: Sequence[tuple[Plaintext, bytes]], *, batch_id: UUID | None = None
    ) -> list[Seal | Exception]:
        """Encrypts each plaintext under its derivation context. The plaintexts stay the caller's to wipe.

        `batch_id` goes to Vault's audit log, as `decrypt`'s.
        """
        ...

    async def decrypt(
        self, key: str, items: Sequence[tuple[str, bytes]], *, batch_ids: Sequence[UUID]
    ) -> list[Plaintext | Exception]:
        """Decrypts each ciphertext under its context. Items fail with CiphertextRejected or KeyVersionRetired.

        `batch_ids`, the batches whose events granted this, go to Vault as a header that its audit device logs in the
        clear. The plaintexts are the caller's to wipe.
        """
        ...

    async def hmac(self, key: str, digest: bytes) -> Mac:
        """An HMAC under a key that only Vault has."""
        ...

    async def hmac_matches(self, key: str, digest: bytes, mac: Mac) -> bool:
        """Whether `mac` is of this digest, under the version of the key that made it."""
        ...


class CiphertextStore(Protocol):
    """Vault's KV v2 engine: ciphertext by path and version, never plaintext."""

    async def read(self, path: str, version: int) -> Seal:
        """The ciphertext, with the key version that it names.

        Raises CiphertextGone where this version is deleted, destroyed or was never there.
        """
        ...

    async def newest_version(self, path: str) -> int:
        """The path's newest version, live or not; 0 where there is none."""
        ...

    async def write(self, path: str, ciphertext: str, *, cas: int) -> int:
        """Writes the version after `cas` and returns its number. Raises CasMismatch. Never tried twice."""
        ...

    async def annotate(self, path: str, metadata: dict[str, str]) -> None:
        """Replaces the path's custom metadata, which is what a person in the Vault UI sees."""
        ...

    async def destroy(self, path: str, version: int) -> None:
        """Removes one version for good. Removing what is not there is fine."""
        ...

    async def delete(self, path: str) -> None:
        """Removes the path with all its versions for good. Removing what is not there is fine."""
        ...

    async def list_paths(self, prefix: str = "") -> list[str]:
        """The names directly below a prefix; folders end in `/`."""
        ...

    async def live_versions(self, path: str) -> set[int]:
        """The versions of a path that are neither deleted nor destroyed."""
        ...

    async def describe(self, path: str) -> PathDescription:
        """What its metadata says of a path: versions and annotation, no ciphertext."""
        ...

    async def installation_id(self) -> UUID | None:
        """The id that provisioning wrote to this mount; None where it is not there."""
        ...


class CredentialStore(Protocol):
    """The `credentials` table, and the intents, floors and idempotency keys that its writes need.

    Each method is one transaction, over the service's own pool or, where `conn` is given, on that connection (in its
    transaction if it is in one).
    """

    async def get(self, access: ReadAccess, credential_id: UUID) -> Credential:
        """Raises CredentialNotFound, for another user's as for none."""
        ...

    async def get_each(self, wanted: Sequence[tuple[ReadAccess, UUID]]) -> list[Credential | Exception]:
        """As `get`, for many at once, in order: CredentialNotFound is in the place of what that access can't see."""
        ...

    async def page(
        self, access: ReadAccess, wanted: CredentialFilter, after: Cursor | None, limit: int
    ) -> list[Credential]:
        """Newest first, from after the cursor, at most `limit`."""
        ...

    async def pasts(self, credential_ids: Sequence[UUID]) -> list[IdPast]:
        """What is known of each of these ids, in order, which the caller has seen no row of."""
        ...

    async def begin_write(self, intent: WriteIntent) -> None:
        """Commits the intent over the service's own pool, whatever transaction the caller is in.

        Where its id was given, whoever holds another intent for the same path is then waited for: they have settled it,
        or will see this one.
        """
        ...

    async def abandon_write(self, intent: WriteIntent) -> None:
        """Forgets an intent whose KV version has been removed again."""
        ...

    async def insert(
        self,
        credential: Credential,
        intent: WriteIntent,
        event: Event,
        *,
        idempotency: IdempotencyRecord | None = None,
        conn: CallerConnection | None = None,
        created_at: datetime | None = None,
    ) -> Credential | None:
        """The last transaction of a store: row, event, idempotency record; the intent out. Returns the row.

        `created_at`: when it was made elsewhere; None: now.

        Returns None where the key version is below the key's floor: seal again. Raises WriteInterrupted if the
        intent is gone, ConcurrentUpdate if the idempotency key was taken meanwhile, or an id that was given: by a row,
        or by one that is deleted by now.
        """
        ...

    async def replace_secret(
        self, before: Credential, after: Credential, intent: WriteIntent, event: Event
    ) -> Credential | None:
        """The last transaction of an update or rollback, guarded by `before.row_version`.

        Keeps `before`'s secret as the previous one, leaves intents for what is no longer pinned. Returns and raises as
        `insert`; ConcurrentUpdate where the row has changed or gone.
        """
        ...

    async def set_active(self, before: Credential, is_active: bool, event: Event) -> Credential:
        """Raises ConcurrentUpdate where the row has changed or gone."""
        ...

    async def remove(self, before: Credential, intent: WriteIntent, event: Event) -> None:
        """Deletes the row, which alone makes the ciphertext useless; leaves the intent to delete it from KV."""
        ...

    async def record_validation(self, validated: Credential, verdict: ProviderVerdict, event: Event) -> None:
        """Notes a verdict, unless the secret has been replaced since it was opened."""
        ...

    async def touch_used(self, credential_ids: Sequence[UUID]) -> None:
        """Sets `last_used_at`, at most once a minute for each."""
        ...

    async def find_idempotent(self, actor: str, user_id: str, route: str, key: str) -> IdempotencyRecord | None:
        """The live record of this Idempotency-Key."""
        ...


class ReconciliationStore(Protocol):
    """What reconciliation needs of Postgres. Everything it holds, it holds by a row lock."""

    async def installation_id(self) -> UUID | None:
        """The id that migration wrote."""
        ...

    async def due_intents(self, limit: int) -> list[WriteIntent]:
        """Intents past their age, oldest first, without locking them."""
        ...

    def hold_intent(
        self, intent: WriteIntent, *, waits: bool = False
    ) -> AbstractAsyncContextManager[HeldIntent | None]:
        """Locks the intent and its credential's row; None where the intent is gone, or held by somebody else, who is
        waited for only with `waits`.

        The intent is deleted when the block ends without an exception, and kept otherwise.
        """
        ...

    async def defer(self, intent: WriteIntent) -> None:
        """Puts an intent that can't be reconciled now off for some minutes."""
        ...

    async def expire_previous(self, limit: int) -> int:
        """Forgets previous secrets past their time, leaving intents to destroy their KV versions."""
        ...

    async def purge_idempotency(self) -> int:
        """Deletes idempotency keys past their time."""
        ...

    async def page_all(self, after: UUID | None, limit: int) -> list[Credential]:
        """Every credential, by id, for the full check."""
        ...

    async def find(self, credential_ids: Sequence[UUID]) -> list[Credential]:
        """Those of these credentials that there are."""
        ...

    async def open_intent_versions(self, kv_path: str) -> set[int | None]:
        """The KV versions of a path that some intent accounts for."""
        ...

    async def mark_broken(self, credential_ids: Sequence[UUID], broken: bool) -> None:
        """Notes that a credential's ciphertext is gone, or back."""
        ...


class AccessLog(Protocol):
    """Who may open what, and the record of it."""

    async def authorise_opens(
        self, requests: Sequence[OpenRequest], *, batch_id: UUID, conn: CallerConnection | None = None
    ) -> list[Credential | Exception]:
        """Decides and records each request in one committed statement, in order.

        A denial is a CredentialDenied in the request's place. With `conn` (not in a transaction) it is used; raises
        ConnectionBusy where that is not to be had just now.
        """
        ...

    async def record(self, events: Sequence[Event]) -> None:
        """Records events, committed together."""
        ...

    async def record_denied(self, access: OwnerAccess, credential_id: UUID | None, action: Action) -> None:
        """Records that something was refused before there was a grant; None: what was asked for is no UUID."""
        ...

    async def page(
        self, access: ReadAccess, wanted: EventFilter, after: Cursor | None, limit: int
    ) -> list[RecordedEvent]:
        """Newest first, from after the cursor, at most `limit`. An owner sees what was done as them."""
        ...


class Provider(Protocol):
    """One provider of credentials: its hosts, what authenticates a call, and what its answers say of the keys."""

    credential_type: str
    needs_secret_key: bool
    has_account_types: bool
    """Whether its accounts are paper or live; where they aren't, the guard is not concerned."""

    async def validate(self, api_key: Plaintext, secret_key: Plaintext) -> ProviderVerdict:
        """Asks the provider. Raises ProviderUnavailable's kinds where it could not be asked: never "invalid"."""
        ...

    def headers(self, api_key: Plaintext, secret_key: Plaintext) -> dict[str, str]:
        """What authenticates a call. Strings, which can't be wiped: to be made at the last moment."""
        ...

    def base_url(self, method: str, path: str, query: str, account_type: AccountType | None) -> str:
        """Where this call goes: a fixed host, no slash at the end. `path` begins with a slash and has been normalised
        (`proxy_path`); `query` is raw, without its question mark.

        Raises:
            ProxyRefused: the method and path are none of this provider's that may be called. InvalidInput: `query`.
            AccountTypeUnknown: which host depends on the account type.
        """
        ...

    def refuses_keys(self, status: int) -> bool:
        """Whether an answer of this status to a call says that the keys are not accepted."""
        ...

    def accepts_keys(self, status: int, path: str) -> bool:
        """Whether an answer of this status to a call of this path shows that the keys are accepted."""
        ...


class ProviderRegistry(Protocol):
    """The providers by credential type."""

    def __getitem__(self, credential_type: str) -> Provider:
        """Raises InvalidInput, which lists the known types."""
        ...

    def __contains__(self, credential_type: object) -> bool:
        """Whether there is one."""
        ...
