"""Storing, updating, rolling back, disabling, deleting. Each is the old state or the new one, whatever crashes."""

import logging
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from service.errors import (
    AccountTypeRefused,
    ConcurrentUpdate,
    CredentialNotFound,
    CredentialsError,
    IdempotentResultGone,
    InvalidInput,
    NothingToRollBack,
    PreconditionFailed,
)
from service.memory.plaintext import Plaintext
from service.modules.account_type_guard import AccountTypeGuard
from service.modules.credential_opener import CredentialOpener
from service.modules.idempotency import Idempotency, RequestDigest
from service.modules.input_checks import check_user_id, uuid_from
from service.modules.ports import (
    AccessLog,
    CallerConnection,
    CiphertextStore,
    CredentialStore,
    ProviderRegistry,
)
from service.modules.records import (
    Action,
    Credential,
    Event,
    IdempotencyRecord,
    Outcome,
    OwnerAccess,
    TransitReference,
    WriteIntent,
)
from service.modules.sealed_write import SealedWriter
from service.modules.secret_pair import check_key, copy_view, join_pair, split_pair
from service.modules.vault_layout import VaultLayout

_log = logging.getLogger(__name__)
_STORE_ROUTE = "POST /v1/credentials"

IfMatch = frozenset[int] | None
"""The row versions a caller accepts; None: any."""


@dataclass(frozen=True, slots=True)
class NewCredential:
    """What a caller wants stored. The plaintexts stay the caller's to wipe."""

    account_id: str | UUID
    credential_type: str
    api_key: Plaintext
    secret_key: Plaintext
    # What an import knows of it already. An id that a deleted credential had is refused: ConcurrentUpdate.
    id: UUID | None = None
    is_active: bool = True
    created_at: datetime | None = None


class CredentialWriter:
    """Changes credentials.

    Guarantees: a change and its event commit together; a version that somebody else has changed is never overwritten;
    keys that an access for one type of account saves are of such an account. Does not: keep a deleted credential
    openable by anybody, ever.
    """

    def __init__(
        self,
        store: CredentialStore,
        log: AccessLog,
        ciphertexts: CiphertextStore,
        sealed_writer: SealedWriter,
        opener: CredentialOpener,
        idempotency: Idempotency,
        providers: ProviderRegistry,
        layout: VaultLayout,
    ) -> None:
        self._store = store
        self._log = log
        self._ciphertexts = ciphertexts
        self._sealed = sealed_writer
        self._opener = opener
        self._idempotency = idempotency
        self._providers = providers
        self._layout = layout
        self._guard = AccountTypeGuard(providers)

    async def store(
        self,
        access: OwnerAccess,
        new: NewCredential,
        *,
        conn: CallerConnection | None = None,
        idempotency_key: str | None = None,
    ) -> Credential:
        """Stores a new credential. With `conn`, its row commits with the caller's transaction, if there is one.

        Raises:
            InvalidInput: names the field. IdempotencyMismatch, IdempotentResultGone: of `idempotency_key`.
            AccountTypeRefused, ProviderUnavailable: of an access for one type of account; nothing was stored.
            TemporarilyUnavailable: safe to send again with the same `idempotency_key`.
        """
        account_id = self.check(access, new)
        digest = RequestDigest.of(str(account_id), new.credential_type, new.api_key, new.secret_key)
        if idempotency_key is not None and (stored := await self._replayed(access, idempotency_key, digest)):
            return stored
        draft = self._draft(access, account_id, new)
        record = None
        if idempotency_key is not None:
            record = await self._idempotency.record(access, _STORE_ROUTE, idempotency_key, digest, draft.id)
        try:
            with join_pair(new.api_key, new.secret_key) as pair:
                draft = await self._guarded(access, draft, Action.STORE, pair)
                return await self._insert(access, draft, pair, record, conn, new)
        except ConcurrentUpdate:
            # The same request, sent twice at once: the other one is committed, so this one's answer is there too.
            if idempotency_key is not None and (stored := await self._replayed(access, idempotency_key, digest)):
                return stored
            raise

    def check(self, access: OwnerAccess, new: NewCredential) -> UUID:
        """What can be known of a new credential without asking anybody. Returns its account's id.

        Raises:
            InvalidInput: names the field.
        """
        check_user_id(access.user_id)
        account_id = uuid_from("account_id", new.account_id)
        self._check_keys(new.credential_type, new.api_key, new.secret_key)
        return account_id

    async def _insert(
        self,
        access: OwnerAccess,
        draft: Credential,
        pair: Plaintext,
        record: IdempotencyRecord | None,
        conn: CallerConnection | None,
        new: NewCredential,
    ) -> Credential:
        async def commit(sealed: Credential, intent: WriteIntent) -> Credential | None:
            event = self._event(access, sealed, Action.STORE)
            return await self._store.insert(
                sealed, intent, event, idempotency=record, conn=conn, created_at=new.created_at
            )

        return await self._sealed.write(draft, pair, commit, is_new=True, id_was_given=new.id is not None)

    async def _replayed(self, access: OwnerAccess, key: str, digest: RequestDigest) -> Credential | None:
        credential_id = await self._idempotency.find(access, _STORE_ROUTE, key, digest)
        if credential_id is None:
            return None
        try:
            return await self._store.get(access, credential_id)
        except CredentialNotFound:
            raise IdempotentResultGone from None

    async def update(
        self,
        access: OwnerAccess,
        credential_id: str | UUID,
        *,
        api_key: Plaintext | None,
        secret_key: Plaintext | None,
        is_active: bool | None,
        if_match: IfMatch,
    ) -> Credential:
        """Changes what is given. A key that is not given is opened and sealed again, which is recorded as such.

        Raises:
            CredentialNotFound, PreconditionFailed, ConcurrentUpdate: nothing was changed.
            InvalidInput: names the field.
            AccountTypeRefused, ProviderUnavailable: of an access for one type of account; nothing was changed.
        """
        action = Action.UPDATE
        if api_key is None and secret_key is None:
            if is_active is None:
                raise InvalidInput("body", "must name at least one field to change")
            action = Action.ENABLE if is_active else Action.DISABLE
        before = await self._before(access, credential_id, action, if_match)
        if api_key is None and secret_key is None:
            return await self._store.set_active(before, bool(is_active), self._event(access, before, action))
        async with self._completed(access, before, api_key, secret_key) as (whole_api_key, whole_secret_key):
            self._check_keys(before.credential_type, whole_api_key, whole_secret_key)
            with join_pair(whole_api_key, whole_secret_key) as pair:
                after = await self._guarded(access, before, action, pair)
                return await self._replace(access, before, after, pair, action, is_active)

    @asynccontextmanager
    async def _completed(
        self, access: OwnerAccess, before: Credential, api_key: Plaintext | None, secret_key: Plaintext | None
    ) -> AsyncIterator[tuple[Plaintext, Plaintext]]:
        """Both keys: those given, and the present one where one isn't."""
        if api_key is not None and secret_key is not None:
            yield api_key, secret_key
            return
        # A key that is wrong in itself is refused before anything is opened for it.
        for field, given in (("api_key", api_key), ("secret_key", secret_key)):
            if given is not None:
                check_key(field, given, may_be_empty=field == "secret_key")
        opened = await self._opener.open(access, before.id, action=Action.RESEAL, allow_inactive=True)
        with opened.pair:
            if opened.credential.row_version != before.row_version:
                raise ConcurrentUpdate
            with split_pair(opened.pair) as (api_view, secret_view):
                present = copy_view(secret_view if api_key is not None else api_view)
        with present:
            # `is None`, as Polygon's empty secret key is a key that was given, and an empty Plaintext is false.
            yield (present if api_key is None else api_key, present if secret_key is None else secret_key)

    async def rollback(self, access: OwnerAccess, credential_id: str | UUID, *, if_match: IfMatch) -> Credential:
        """Makes the secret before the last update the present one again, under a new secret version.

        Raises:
            NothingToRollBack: none is kept, or not any more. Else as `update`.
        """
        before = await self._before(access, credential_id, Action.ROLLBACK, if_match)
        if before.previous is None or before.previous.expires_at <= datetime.now(UTC):
            raise NothingToRollBack
        opened = await self._opener.open(access, before.id, action=Action.RESEAL, allow_inactive=True, previous=True)
        with opened.pair as pair:
            if opened.credential.row_version != before.row_version:
                raise ConcurrentUpdate
            after = await self._guarded(access, before, Action.ROLLBACK, pair)
            return await self._replace(access, before, after, pair, Action.ROLLBACK, None)

    async def _guarded(self, access: OwnerAccess, before: Credential, action: Action, pair: Plaintext) -> Credential:
        """What the row will be, as far as its provider says. A refusal is recorded."""
        try:
            return await self._guard.checked(access, before, pair)
        except (AccountTypeRefused, InvalidInput) as error:
            reason = "account_type" if isinstance(error, AccountTypeRefused) else "keys_refused"
            refused = replace(self._event(access, before, action), outcome=Outcome.DENIED, reason=reason)
            await self._log.record([refused])
            raise

    async def _replace(
        self,
        access: OwnerAccess,
        before: Credential,
        after: Credential,
        pair: Plaintext,
        action: Action,
        is_active: bool | None,
    ) -> Credential:
        reference = self._layout.checked(before)
        after = replace(
            after,
            is_active=before.is_active if is_active is None else is_active,
            reference=replace(reference, secret_version=reference.secret_version + 1),
        )

        async def commit(sealed: Credential, intent: WriteIntent) -> Credential | None:
            return await self._store.replace_secret(before, sealed, intent, self._event(access, sealed, action))

        return await self._sealed.write(after, pair, commit, is_new=False)

    async def delete(self, access: OwnerAccess, credential_id: str | UUID, *, if_match: IfMatch) -> None:
        """Deletes the row, which is what ends the credential, then its ciphertext.

        Raises as `update`. Vault not answering is not an error here: reconciliation deletes the ciphertext later.
        """
        before = await self._before(access, credential_id, Action.DELETE, if_match)
        path = self._layout.kv_path(before.account_id, before.id)
        intent = WriteIntent(id=uuid.uuid4(), credential_id=before.id, kv_path=path, kv_version=None)
        await self._store.remove(before, intent, self._event(access, before, Action.DELETE))
        try:
            await self._ciphertexts.delete(path)
            await self._store.abandon_write(intent)
        except CredentialsError as error:
            _log.info("a deleted credential's path is left to reconciliation", extra={"error": type(error).__name__})

    async def _before(
        self, access: OwnerAccess, credential_id: str | UUID, action: Action, if_match: IfMatch
    ) -> Credential:
        check_user_id(access.user_id)
        wanted = uuid_from("credential_id", credential_id)
        try:
            before = await self._store.get(access, wanted)
        except CredentialNotFound:
            await self._log.record_denied(access, wanted, action)
            raise
        if if_match is not None and before.row_version not in if_match:
            raise PreconditionFailed
        return before

    def _check_keys(self, credential_type: str, api_key: Plaintext, secret_key: Plaintext) -> None:
        provider = self._providers[credential_type]
        check_key("api_key", api_key)
        check_key("secret_key", secret_key, may_be_empty=not provider.needs_secret_key)

    def _draft(self, access: OwnerAccess, account_id: UUID, new: NewCredential) -> Credential:
        """A new credential, but for what sealing and inserting fill in. The id is made here, before encryption."""
        credential_id, credential_type, now = new.id or uuid.uuid4(), new.credential_type, datetime.now(UTC)
        return Credential(
            id=credential_id,
            user_id=access.user_id,
            account_id=account_id,
            credential_type=credential_type,
            account_type=None,
            is_active=new.is_active,
            reference=TransitReference(
                transit_mount=self._layout.transit_mount,
                transit_key=self._layout.transit_key(credential_type),
                transit_key_version=0,
                binding=secrets.token_bytes(32),
                kv_mount=self._layout.kv_mount,
                kv_path=self._layout.kv_path(account_id, credential_id),
                kv_version=0,
                secret_version=1,
            ),
            previous=None,
            row_version=0,
            validation_state="unvalidated",
            last_validated_at=None,
            last_used_at=None,
            created_at=now,
            updated_at=now,
        )

    @staticmethod
    def _event(access: OwnerAccess, credential: Credential, action: Action) -> Event:
        return Event(
            access=access,
            credential_id=credential.id,
            account_id=credential.account_id,
            owner=credential.user_id,
            action=action,
            outcome=Outcome.DONE,
            transit_key=credential.transit_key,
            transit_key_version=credential.transit_key_version,
        )
