"""Opening: authorise and record, fetch the ciphertext, decrypt, hand over, wipe. In that order and no other."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from service.errors import CiphertextGone, CredentialsError, InvalidInput, KeyVersionRetired
from service.memory.revealed import RevealedSecret
from service.modules.failed_uses import FailedUse, record_failed
from service.modules.input_checks import check_user_id, uuid_from
from service.modules.open_batches import OpenBatches, Opened
from service.modules.ports import AccessLog, CallerConnection
from service.modules.records import Action, Credential, OpenRequest, OwnerAccess
from service.modules.secret_pair import reveal_pair, wipe_pair
from service.modules.usage import UsageRecorder
from service.modules.uses_under_way import UsesUnderWay


class CredentialOpener:
    """Opens credentials for those who may.

    Guarantees: before transit is asked, the opening has been authorised and its event committed; a decryption that
    fails after that is a second event, and so is one that took so long that the grant was asked for once more and is
    no longer good; the plaintext is wiped when the block ends, however it ends. Does not: follow copies that the block
    makes; end a block whose user is suspended while it runs.
    """

    def __init__(
        self,
        log: AccessLog,
        batches: OpenBatches,
        usage: UsageRecorder,
        uses: UsesUnderWay,
    ) -> None:
        self._log = log
        self._batches = batches
        self._usage = usage
        self._uses = uses

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
            Busy: too many opens are waiting.
            TemporarilyUnavailable: Vault or Postgres does not answer; nothing was handed out.
        """
        opened = await self.open(access, credential_id, credential_type=credential_type, conn=conn)
        with opened.pair:
            keys = reveal_pair(opened.pair)
        try:
            yield keys
        finally:
            wipe_pair(keys)

    async def open(
        self,
        access: OwnerAccess,
        credential_id: str | UUID,
        *,
        action: Action = Action.OPEN,
        credential_type: str | None = None,
        allow_inactive: bool = False,
        previous: bool = False,
        accept: Callable[[Credential], None] | None = None,
        conn: CallerConnection | None = None,
    ) -> Opened:
        """As `reveal`, but hands over the bytes: the caller wipes `pair`. `previous`: the secret before the update.

        `accept` looks at what was granted before it is decrypted, and raises a CredentialsError to have it fail.
        """
        # In a batch, a name that Postgres can't hold would fail for everybody.
        check_user_id(access.user_id)
        check_user_id(access.actor, "actor")
        try:
            wanted = uuid_from("credential_id", credential_id)
        except InvalidInput:
            await self._log.record_denied(access, None, action)
            raise
        request = OpenRequest(
            credential_id=wanted,
            access=access,
            action=action,
            credential_type=credential_type,
            allow_inactive=allow_inactive,
            previous=previous,
            accept=accept,
        )
        try:
            opened = await self._opened(request, conn)
        except (CiphertextGone, KeyVersionRetired):
            # An update, rewrap or retirement came between the row and the ciphertext: the row says where it is now.
            opened = await self._opened(request, conn)
        if action is not Action.IMPORT:  # nobody used it
            self._usage.note(opened.credential.id)
        return opened

    async def _opened(self, request: OpenRequest, conn: CallerConnection | None) -> Opened:
        """One try, whose grant still holds when it is done."""
        asked = time.monotonic()
        opened = await self._batches.open(request, conn)
        try:
            await self._uses.check_late(request.access, opened.credential, asked=asked, disabled=request.allow_inactive)
        except BaseException as error:
            opened.pair.wipe()
            if isinstance(error, CredentialsError):
                await self.record_failure(request.access, opened.credential, request.action, error)
            raise
        return opened

    async def record_failure(
        self, access: OwnerAccess, credential: Credential, action: Action, error: CredentialsError
    ) -> None:
        """Records that a use which was granted came to nothing, or to less. Raises nothing where it can't."""
        await record_failed(self._log, [FailedUse(access=access, credential=credential, action=action, error=error)])
