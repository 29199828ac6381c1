"""One row of an import: its credential found or stored, opened, and compared with the row."""

import hmac
from dataclasses import dataclass
from uuid import UUID

from service.errors import CredentialNotFound, CredentialUnreadable, InvalidInput
from service.modules.credential_opener import CredentialOpener
from service.modules.credential_reader import CredentialReader
from service.modules.credential_writer import CredentialWriter, NewCredential
from service.modules.import_records import Became, Mode, RowResult, SourceRow
from service.modules.input_checks import check_user_id
from service.modules.past_ids import PastIds
from service.modules.ports import AccessLog
from service.modules.records import (
    Action,
    AuditAccess,
    Credential,
    Event,
    IdPast,
    ImportAccess,
    Outcome,
    OwnerAccess,
)
from service.modules.secret_pair import join_pair

LOST = "wiped in the source, and does not open here"
"""The problem of a row whose keys are gone: the last copy was here."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A row, and the credential that is here for it, not compared yet."""

    row: SourceRow
    owner: OwnerAccess
    credential: Credential
    became: Became


class RowImporter:
    """Stores a source's rows, one by one.

    Guarantees: what it calls imported or present has been opened through Vault and compared with the row, in constant
    time; what is here is not overwritten, and what was deleted here does not come back; nobody learns by it that an id
    is another user's without an event of that. Does not: wait for what does not answer; show what it opens to anybody;
    ask a provider, unless the access is for one type of account; know of deletions whose events are kept no longer.
    """

    def __init__(
        self,
        reader: CredentialReader,
        writer: CredentialWriter,
        opener: CredentialOpener,
        log: AccessLog,
        past_ids: PastIds,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._opener = opener
        self._log = log
        self._past_ids = past_ids

    def check(self, access: ImportAccess, row: SourceRow) -> None:
        """What can be known of a row without asking anybody. Raises InvalidInput, which names the field."""
        if row.is_wiped:
            check_user_id(row.user_id)
        else:
            self._writer.check(_owner(access, row), _new(row))

    async def place(self, access: ImportAccess, row: SourceRow, mode: Mode) -> RowResult | Placed:
        """The row's credential, stored if it was not here; or its result, where that is known without opening it.

        Raises:
            InvalidInput: it is this row's, as are CredentialDenied and CredentialUnreadable, and ConcurrentUpdate and
                WriteInterrupted, after which another try may do better.
            CredentialsError: any other; no row will fare better.
        """
        self.check(access, row)
        owner, new, credential_id = _owner(access, row), _new(row), row.credential_id
        there = await self._found(access, credential_id)
        became = Became.WIPED if row.is_wiped else Became.PRESENT
        if there is None:
            if (past := await self._past(owner, row, credential_id)) is not None:
                return past
            if row.is_wiped:
                self._writer.check(owner, new)  # one without keys is no wiped one
            if mode is Mode.VERIFY:
                return RowResult(row.where, Became.MISSING, "is not here", credential_id)
            if mode is Mode.DRY_RUN:
                return RowResult(row.where, Became.VALID, None, credential_id)
            there, became = await self._writer.store(owner, new), Became.IMPORTED
        elif there.user_id != row.user_id:
            await self._record(owner, there, "not_owner")
            raise InvalidInput("id", "is the id of another credential")
        elif not _is_same(there, row):
            await self._record(owner, there, "differs")
            return RowResult(row.where, Became.DIFFERS, "here it is of another account or type", credential_id)
        if mode is Mode.DRY_RUN:
            return RowResult(row.where, became, None, credential_id)
        return Placed(row, owner, there, became)

    async def compare(self, placed: Placed) -> RowResult:
        """The result of a row that was placed. Raises as `place`."""
        row, there = placed.row, placed.credential
        if row.is_wiped:
            return await self._opens(placed)
        if await self._opens_to(placed.owner, there, row):
            return RowResult(row.where, placed.became, None, there.id)
        updated = "its keys were updated here since" if there.secret_version > 1 else "opens to other keys"
        return RowResult(row.where, Became.DIFFERS, updated, there.id)

    async def _found(self, access: ImportAccess, credential_id: UUID) -> Credential | None:
        # Whoever's it is: a path in KV that another user's row pins must not be written to.
        try:
            return await self._reader.get(AuditAccess(actor=access.actor), credential_id)
        except CredentialNotFound:
            return None

    async def _past(self, owner: OwnerAccess, row: SourceRow, credential_id: UUID) -> RowResult | None:
        """The result of a row whose id nobody is to have any more."""
        match await self._past_ids.of(credential_id):
            case IdPast.DELETED:
                await self._log.record_denied(owner, credential_id, Action.IMPORT)
                problem = "was deleted here; to be stored anew, the row needs another id"
                return RowResult(row.where, Became.DELETED, problem, credential_id)
            case IdPast.BEING_DELETED:
                return RowResult(row.where, Became.FAILED, "is being deleted here; run it again later", credential_id)
            case IdPast.UNKNOWN:
                return None

    async def _record(self, owner: OwnerAccess, there: Credential, reason: str) -> None:
        """Before anybody is told so: who may import could otherwise ask which ids there are, and leave no trace."""
        event = Event(
            access=owner,
            credential_id=there.id,
            account_id=there.account_id,
            owner=there.user_id,
            action=Action.IMPORT,
            outcome=Outcome.DENIED,
            reason=reason,
        )
        await self._log.record([event])

    async def _opens(self, placed: Placed) -> RowResult:
        """Of a row that is wiped in the source: there is nothing to compare, and here is the only copy."""
        row, there = placed.row, placed.credential
        try:
            opened = await self._opener.open(placed.owner, there.id, action=Action.IMPORT, allow_inactive=True)
        except CredentialUnreadable:
            return RowResult(row.where, Became.FAILED, LOST, there.id)
        opened.pair.wipe()
        return RowResult(row.where, placed.became, None, there.id)

    async def _opens_to(self, owner: OwnerAccess, there: Credential, row: SourceRow) -> bool:
        opened = await self._opener.open(owner, there.id, action=Action.IMPORT, allow_inactive=True)
        with (
            opened.pair as here,
            join_pair(row.api_key, row.secret_key) as wanted,
            here.reveal() as one,
            wanted.reveal() as other,
        ):
            return hmac.compare_digest(one, other)  # which takes as long wherever they differ


def _owner(access: ImportAccess, row: SourceRow) -> OwnerAccess:
    return OwnerAccess(
        user_id=row.user_id,
        actor=access.actor,
        request_id=access.request_id,
        account_type=access.account_type,
    )


def _new(row: SourceRow) -> NewCredential:
    return NewCredential(
        account_id=row.account_id,
        credential_type=row.credential_type,
        api_key=row.api_key,
        secret_key=row.secret_key,
        id=row.credential_id,
        is_active=row.is_active,
        created_at=row.created_at,
    )


def _is_same(there: Credential, row: SourceRow) -> bool:
    return (there.user_id, str(there.account_id), there.credential_type) == (
        row.user_id,
        row.account_id.lower(),
        row.credential_type,
    )
