"""Handing off: an orchestrator gets a single-use token that Vault gives the plaintext for, and this service never does.

Who may unwrap a token: whoever holds it, once, until it expires. Vault asks for nothing else. So it is the client that
checks at `sys/wrapping/lookup` what it was made for, before unwrapping, and reports here what went wrong.
"""

import logging
import uuid
from dataclasses import dataclass
from typing import get_args
from uuid import UUID

from service.correlation import note_batch
from service.errors import (
    CiphertextGone,
    CiphertextRejected,
    CredentialNotFound,
    CredentialsError,
    InvalidInput,
    KeyVersionRetired,
)
from service.modules.ciphertext_cache import CiphertextCache
from service.modules.coalescer import FairQueue
from service.modules.derivation_context import context_of
from service.modules.failed_uses import FailedUse, record_failed
from service.modules.handoff_ports import HandOffLog, WrappedPair, Wrapper
from service.modules.input_checks import check_user_id, uuid_from
from service.modules.open_batches import check_version
from service.modules.ports import AccessLog
from service.modules.records import Action, Credential, OpenRequest, OwnerAccess
from service.modules.usage import UsageRecorder
from service.modules.uses_under_way import UsesUnderWay
from service.modules.vault_layout import VaultLayout
from service.schemas.handoff_schemas import MAX_TTL, UnwrapFailure

_log = logging.getLogger(__name__)

AT_ONCE = 16
"""Hand-offs under way: half of the wire's connections, so that opens always have theirs."""

UNWRAP_FAILURES: tuple[str, ...] = get_args(UnwrapFailure)
"""Why a client could not unwrap. The first and the third mean that somebody else may have the plaintext."""


@dataclass(frozen=True, slots=True)
class HandedOff:
    """A wrapped pair and whose it is."""

    id: UUID
    """The `batch_id` of its event, and of Vault's audit entry."""
    credential: Credential
    wrapped: WrappedPair


class HandOffs:
    """Hands credentials off to those who may.

    Guarantees: before Vault is asked, the hand-off has been authorised and its event committed; a failure after that
    is a second event; the plaintext never comes to this process; no more than `at_once` are under way, fairly between
    users. Does not: know whether a token was used; take one back. What is out lasts until it expires, whatever has
    happened since: a suspension, a disabling or a deletion denies the next hand-off, not the one before.
    """

    def __init__(
        self,
        log: AccessLog,
        unwraps: HandOffLog,
        ciphertexts: CiphertextCache,
        wrapper: Wrapper,
        layout: VaultLayout,
        usage: UsageRecorder,
        queue: FairQueue,
        uses: UsesUnderWay,
    ) -> None:
        self._log = log
        self._unwraps = unwraps
        self._ciphertexts = ciphertexts
        self._wrapper = wrapper
        self._layout = layout
        self._usage = usage
        self._queue = queue
        self._uses = uses

    async def hand_off(self, access: OwnerAccess, credential_id: str | UUID, ttl: int) -> HandedOff:
        """A token for the credential's pair, which lasts `ttl` seconds. Whoever gets it wipes `wrapped.token`.

        What is wrapped is Vault's answer to a decryption: `{"plaintext": <base64>}` of the two keys with a newline
        between.

        Raises:
            InvalidInput: `ttl` is not 1 to 300, or the id no UUID.
            CredentialDenied: as for an open.
            CredentialUnreadable: its parts in Vault and Postgres don't fit together.
            Busy: too many hand-offs wait. TemporarilyUnavailable: nothing was handed out.
        """
        check_seconds(ttl)
        check_user_id(access.user_id)
        check_user_id(access.actor, "actor")
        try:
            wanted = uuid_from("credential_id", credential_id)
        except InvalidInput:
            await self._log.record_denied(access, None, Action.HAND_OFF)
            raise
        request = OpenRequest(credential_id=wanted, access=access, action=Action.HAND_OFF)
        try:
            handed = await self._handed_off(request, ttl)
        except (CiphertextGone, KeyVersionRetired):
            # An update, rewrap or retirement came between the row and the ciphertext: the row says where it is now.
            handed = await self._handed_off(request, ttl)
        self._usage.note(handed.credential.id)
        return handed

    async def report_failure(
        self, access: OwnerAccess, credential_id: str | UUID, handoff_id: str | UUID, reason: str
    ) -> None:
        """Records that the client could not unwrap, as a second event of that hand-off.

        Raises:
            InvalidInput: an id is no UUID, or the reason none of `UNWRAP_FAILURES`.
            CredentialNotFound: this caller has had no such hand-off of this credential within a quarter of an hour.
        """
        if reason not in UNWRAP_FAILURES:
            raise InvalidInput("reason", "is not one that there is")
        credential, handoff = uuid_from("credential_id", credential_id), uuid_from("handoff_id", handoff_id)
        if not await self._unwraps.record_unwrap_failure(access, credential, handoff, reason):
            raise CredentialNotFound
        _log.warning("a hand-off was not unwrapped", extra={"handoff": str(handoff), "reason": reason})

    async def _handed_off(self, request: OpenRequest, ttl: int) -> HandedOff:
        return await self._queue.run(lambda: self._run(request, ttl), group=request.access.user_id)

    async def _run(self, request: OpenRequest, ttl: int) -> HandedOff:
        handoff_id = uuid.uuid4()
        note_batch(handoff_id)
        (credential,) = await self._log.authorise_opens([request], batch_id=handoff_id)
        if isinstance(credential, Exception):
            raise credential
        try:
            # Vault may be slow, and whoever is suspended meanwhile gets no token.
            async with self._uses.watched(request.access, credential):
                return HandedOff(handoff_id, credential, await self._wrapped(request, credential, handoff_id, ttl))
        except CredentialsError as error:
            failed = FailedUse(
                access=request.access,
                credential=credential,
                action=request.action,
                error=error,
                batch_id=handoff_id,
            )
            await record_failed(self._log, [failed])
            raise

    async def _wrapped(self, request: OpenRequest, credential: Credential, handoff_id: UUID, ttl: int) -> WrappedPair:
        user_id = request.access.user_id
        reference = self._layout.checked(credential)
        context = context_of(credential, reference, user_id=user_id)
        seal = await self._ciphertexts.read(reference.kv_path, reference.kv_version, user_id=user_id)
        check_version(seal, reference)
        try:
            return await self._wrapper.decrypt_wrapped(
                reference.transit_key, seal.ciphertext, context, batch_id=handoff_id, seconds=ttl
            )
        except (CiphertextRejected, KeyVersionRetired):
            self._ciphertexts.forget(reference.kv_path, reference.kv_version)
            raise


def check_seconds(ttl: int) -> None:
    """Raises InvalidInput unless it is a whole number of seconds, from 1 to `MAX_TTL`."""
    if type(ttl) is not int or not 1 <= ttl <= MAX_TTL:
        raise InvalidInput("ttl", f"must be a whole number of seconds, 1 to {MAX_TTL}")
