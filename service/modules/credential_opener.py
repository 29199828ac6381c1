"""Opening: authorise and record, fetch the ciphertext, decrypt, hand over, wipe. In that order and no other."""

import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from service.errors import (
    CiphertextGone,
    CiphertextRejected,
    CredentialsError,
    CredentialUnreadable,
    InvalidInput,
    KeyVersionRetired,
    NothingToRollBack,
    TemporarilyUnavailable,
)
from service.memory.plaintext import Plaintext
from service.memory.revealed import RevealedSecret, reveal_ascii, wipe_revealed
from service.modules.derivation_context import context_of
from service.modules.input_checks import check_user_id, uuid_from
from service.modules.ports import AccessLog, CallerConnection, Cipher, CiphertextStore
from service.modules.records import Action, Credential, Event, OpenRequest, Outcome, OwnerAccess
from service.modules.secret_pair import split_pair
from service.modules.usage import UsageRecorder
from service.modules.vault_layout import VaultLayout

_log = logging.getLogger(__name__)

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (CiphertextGone, "ciphertext_gone"),
    (KeyVersionRetired, "key_version_retired"),
    (CiphertextRejected, "ciphertext_rejected"),
    (CredentialUnreadable, "reference_mismatch"),
    (NothingToRollBack, "no_previous_secret"),
    (TemporarilyUnavailable, "unavailable"),
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A credential as authorised, and its decrypted pair. Whoever holds it wipes it."""

    credential: Credential
    pair: Plaintext


class CredentialOpener:
    """Opens credentials for those who may.

    Guarantees: before transit is asked, the opening has been authorised and its event committed; a decryption that
    fails after that is a second event; the plaintext is wiped when the block ends, however it ends. Does not: follow
    copies that the block makes.
    """

    def __init__(
        self,
        log: AccessLog,
        ciphertexts: CiphertextStore,
        cipher: Cipher,
        layout: VaultLayout,
        usage: UsageRecorder,
    ) -> None:
        self._log = log
        self._ciphertexts = ciphertexts
        self._cipher = cipher
        self._layout = layout
        self._usage = usage

    @asynccontextmanager
    async def reveal(
        self,
        access: OwnerAccess,
        credential_id: str | UUID,
        *,
        credential_type: str | None = None,
        conn: CallerConnection | None = None,
    ) -> AsyncIterator[tuple[RevealedSecret, RevealedSecret]]:
        """The two keys, as strings that read as NULs once the block has ended.

        With `conn` not in a transaction, authorising and recording go over it; else over the service's own pool.

        Raises:
            CredentialDenied: it is not this user's, not active, or of another type (a ValueError).
            CredentialUnreadable: its parts in Vault and Postgres do not fit together.
            TemporarilyUnavailable: Vault or Postgres does not answer; nothing was handed out.
        """
        opened = await self.open(access, credential_id, credential_type=credential_type, conn=conn)
        with opened.pair, _revealed(opened.pair) as keys:
            yield keys

    async def open(
        self,
        access: OwnerAccess,
        credential_id: str | UUID,
        *,
        action: Action = Action.OPEN,
        credential_type: str | None = None,
        allow_inactive: bool = False,
        previous: bool = False,
        conn: CallerConnection | None = None,
    ) -> Opened:
        """As `reveal`, but hands over the bytes: the caller wipes `pair`. `previous`: the secret before the update."""
        request = await self._request(access, credential_id, action, credential_type, allow_inactive)
        try:
            return await self._once(request, previous, conn)
        except (CiphertextGone, KeyVersionRetired):
            # An update, rewrap or retirement came between the row and the ciphertext: the row says where it is now.
            return await self._once(request, previous, conn)

    async def _request(
        self,
        access: OwnerAccess,
        credential_id: str | UUID,
        action: Action,
        credential_type: str | None,
        allow_inactive: bool,
    ) -> OpenRequest:
        check_user_id(access.user_id)
        try:
            wanted = uuid_from("credential_id", credential_id)
        except InvalidInput:
            await self._log.record_denied(access, None, action)
            raise
        return OpenRequest(
            credential_id=wanted,
            access=access,
            action=action,
            credential_type=credential_type,
            allow_inactive=allow_inactive,
        )

    async def _once(self, request: OpenRequest, previous: bool, conn: CallerConnection | None) -> Opened:
        batch_id = uuid.uuid4()
        (granted,) = await self._log.authorise_opens([request], batch_id=batch_id, conn=conn)
        if isinstance(granted, Exception):
            raise granted
        try:
            pair = await self._decrypt(request.access, granted, previous, batch_id)
        except CredentialsError as error:
            await self._record_failure(request, granted, batch_id, error)
            raise
        self._usage.note(granted.id)
        return Opened(granted, pair)

    async def _decrypt(self, access: OwnerAccess, credential: Credential, previous: bool, batch_id: UUID) -> Plaintext:
        reference = self._layout.checked(credential)
        if previous:
            if credential.previous is None:
                raise NothingToRollBack
            kept = credential.previous
            reference = replace(
                reference,
                kv_version=kept.kv_version,
                secret_version=kept.secret_version,
                transit_key_version=kept.transit_key_version,
            )
        seal = await self._ciphertexts.read(reference.kv_path, reference.kv_version)
        if seal.transit_key_version != reference.transit_key_version:
            # Opening doesn't need the row's, but the events tell it and retiring a version counts by it.
            raise CredentialUnreadable
        context = context_of(credential, reference, user_id=access.user_id)
        (plaintext,) = await self._cipher.decrypt(
            reference.transit_key, [(seal.ciphertext, context)], batch_id=batch_id
        )
        if isinstance(plaintext, Exception):
            raise plaintext
        return plaintext

    async def _record_failure(
        self, request: OpenRequest, credential: Credential, batch_id: UUID, error: CredentialsError
    ) -> None:
        event = Event(
            access=request.access,
            credential_id=credential.id,
            account_id=credential.account_id,
            owner=credential.user_id,
            action=request.action,
            outcome=Outcome.FAILED,
            reason=next((reason for kind, reason in _REASONS if isinstance(error, kind)), "vault_refused"),
            transit_key_version=credential.transit_key_version,
            batch_id=batch_id,
        )
        try:
            await self._log.record(event)
        except CredentialsError as unrecorded:
            # The grant is on record; that it came to nothing isn't. The caller's own error matters more.
            _log.warning("a failed open was not recorded", extra={"error": type(unrecorded).__name__})


@contextmanager
def _revealed(pair: Plaintext) -> Iterator[tuple[RevealedSecret, RevealedSecret]]:
    """The two keys as strings, wiped in place when the block ends. The pair's own bytes are wiped before it begins."""
    with split_pair(pair) as (api_view, secret_view):
        api_key = reveal_ascii(api_view)
        try:
            secret_key = reveal_ascii(secret_view)
        except BaseException:
            wipe_revealed(api_key)
            raise
    try:
        pair.wipe()
        yield api_key, secret_key
    finally:
        wipe_revealed(api_key)
        wipe_revealed(secret_key)
