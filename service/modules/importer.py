"""Importing credentials that are kept somewhere else: each stored once, whatever is repeated, and read back."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TypeVar
from uuid import UUID, uuid5

from service.errors import (
    ConcurrentUpdate,
    CredentialDenied,
    CredentialNotFound,
    CredentialsError,
    CredentialUnreadable,
    InvalidInput,
    TemporarilyUnavailable,
    WriteInterrupted,
)
from service.modules.credential_opener import CredentialOpener
from service.modules.credential_reader import CredentialReader
from service.modules.credential_writer import CredentialWriter, NewCredential
from service.modules.import_records import (
    NEEDS_A_LOOK,
    Became,
    ImportReport,
    Mode,
    RowResult,
    Source,
    SourceRow,
    UnreadableRow,
)
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

PATIENCE = 60.0
"""Seconds that what does not answer (Vault, Postgres, a provider) is waited for; then the run stops."""

_NAMESPACE = UUID("4d6b1c0e-8a0f-5c3e-9d2b-7f6a1e5c0b42")
# Rows go from step to step together, so that they are encrypted, recorded and decrypted in few requests; several such
# groups are under way, so that Vault's KV, which takes them one by one, has something to do meanwhile.
_TOGETHER = 64
_GROUPS = 3
_LONGEST_PAUSE = 5.0

# What is wrong with one credential, or was in its way. Any other error would be every row's.
_OF_ONE_ROW = (CredentialDenied, CredentialUnreadable, ConcurrentUpdate, WriteInterrupted)
_TRIES = 3

_LOST = "wiped in the source, and does not open here"

Wipe = Callable[[SourceRow], Awaitable[bool]]
"""Wipes a row's keys in its source; False where it is no longer as it was read, and was left alone."""

Told = Callable[[RowResult], None]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def credential_id_of(row: SourceRow) -> UUID:
    """The row's own id; where it has none, one that is the same in every run and on every machine."""
    if row.id is not None:
        return row.id
    # As JSON, so that no two rows run into the same text.
    account_id = row.account_id.lower()
    return uuid5(_NAMESPACE, json.dumps([row.user_id, account_id, row.credential_type, row.identity]))


@dataclass(frozen=True, slots=True)
class Placed:
    """A row, and the credential that is here for it, not compared yet."""

    row: SourceRow
    owner: OwnerAccess
    credential: Credential
    became: Became


class Importer:
    """Stores a source's rows.

    Guarantees: a row has the same id in every run, so whatever is repeated, broken off or run twice at once stores it
    once; what is called imported or present has been opened through Vault and compared with the source; what is here
    is not overwritten, and what was deleted here does not come back; a row is wiped in its source only after that, and
    only where it is asked for; nobody learns by it that an id is another user's without an event of that. Does not:
    show what it opens to anybody; ask a provider, unless the access is for one type of account; know of deletions whose
    events are kept no longer.
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

    async def run(
        self,
        access: ImportAccess,
        source: Source,
        mode: Mode,
        *,
        told: Told = lambda _result: None,
        progress: Callable[[ImportReport], None] = lambda _report: None,
        wipe: Wipe | None = None,
        stop: asyncio.Event | None = None,
        patience: float = PATIENCE,
    ) -> ImportReport:
        """Goes through all of the source. What ends it early is in the report: nothing under way is cut off by it.

        `told` is given each row's result, `progress` the report after each; `stop`, when set, ends it early.
        """
        return await _Run(self, access, mode, told, progress, wipe, patience).over(source, stop or asyncio.Event())

    async def place(self, access: ImportAccess, row: SourceRow, mode: Mode) -> "RowResult | Placed":
        """The row's credential, stored if it was not here; or its result, where that is known without opening it.

        Raises:
            InvalidInput, and what `_OF_ONE_ROW` has: it is this row's. Anything else: no row will fare better.
        """
        owner = OwnerAccess(
            user_id=row.user_id,
            actor=access.actor,
            request_id=access.request_id,
            account_type=access.account_type,
        )
        credential_id = credential_id_of(row)
        new = NewCredential(
            account_id=row.account_id,
            credential_type=row.credential_type,
            api_key=row.api_key,
            secret_key=row.secret_key,
            id=credential_id,
            is_active=row.is_active,
            created_at=row.created_at,
        )
        if row.is_wiped:
            check_user_id(row.user_id)
        else:
            self._writer.check(owner, new)
        there = await self._found(access, credential_id)
        became = Became.WIPED if row.is_wiped else Became.PRESENT
        if there is None:
            if (past := await self._past(owner, row, credential_id)) is not None:
                return past
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

    async def compare(self, placed: "Placed") -> RowResult:
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

    async def _opens(self, placed: "Placed") -> RowResult:
        """Of a row that is wiped in the source: there is nothing to compare, and here is the only copy."""
        row, there = placed.row, placed.credential
        try:
            opened = await self._opener.open(placed.owner, there.id, action=Action.IMPORT, allow_inactive=True)
        except CredentialUnreadable:
            return RowResult(row.where, Became.FAILED, _LOST, there.id)
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


def _is_same(there: Credential, row: SourceRow) -> bool:
    return (there.user_id, str(there.account_id), there.credential_type) == (
        row.user_id,
        row.account_id.lower(),
        row.credential_type,
    )


class _Run:
    """One run: rows from the source to so many workers, results to the report."""

    def __init__(
        self,
        importer: Importer,
        access: ImportAccess,
        mode: Mode,
        told: Told,
        progress: Callable[[ImportReport], None],
        wipe: Wipe | None,
        patience: float,
    ) -> None:
        self._importer = importer
        self._access = access
        self._mode = mode
        self._told = told
        self._progress = progress
        self._wipe = wipe
        self._patience = patience
        self._report = ImportReport(mode)
        self._waiting: asyncio.Queue[list[SourceRow]] = asyncio.Queue(1)

    async def over(self, source: Source, stop: asyncio.Event) -> ImportReport:
        async with asyncio.TaskGroup() as group:
            for _ in range(_GROUPS):
                group.create_task(self._work(), name="import")
            together: list[SourceRow] = []
            try:
                async with aclosing(source.rows()) as rows:  # type: ignore[type-var]  # a generator, in each source
                    async for row in rows:
                        if isinstance(row, UnreadableRow):
                            self._note(RowResult(row.where, Became.REFUSED, row.problem))
                        else:
                            together.append(row)
                        if len(together) == _TOGETHER:
                            await self._waiting.put(together)
                            together = []
                        if self._report.stopped_by or stop.is_set():
                            break
            except CredentialsError as error:
                self._report.stopped_by = self._report.stopped_by or error
            if together:
                await self._waiting.put(together)
            for _ in range(_GROUPS):
                await self._waiting.put([])  # that was all
        self._report.was_stopped = stop.is_set()
        return self._report

    async def _work(self) -> None:
        while together := await self._waiting.get():
            with ExitStack() as wiping:
                for row in together:
                    wiping.enter_context(row.api_key)
                    wiping.enter_context(row.secret_key)
                placed = await self._each(together, self._place)
                compared = await self._each(placed, self._compare)
                await self._each(compared, self._finish)

    async def _each(self, items: Sequence[_Item], step: Callable[[_Item], Awaitable[_Result | None]]) -> list[_Result]:
        """A step for all of them, and what goes on to the next. After what stops the run, none is begun."""

        async def one(item: _Item) -> _Result | None:
            if self._report.stopped_by is not None:
                return None
            try:
                return await step(item)
            except CredentialsError as error:
                self._report.stopped_by = self._report.stopped_by or error
                return None

        # A group, which has all of them ended before it raises: nobody encrypts keys that are wiped by now.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
        return [result for task in tasks if (result := task.result()) is not None]

    async def _place(self, row: SourceRow) -> Placed | None:
        placed = await self._patiently(row, lambda: self._importer.place(self._access, row, self._mode))
        if isinstance(placed, Placed):
            return placed
        self._note(placed)
        return None

    async def _compare(self, placed: Placed) -> tuple[SourceRow, RowResult]:
        result = await self._patiently(placed.row, lambda: self._importer.compare(placed))
        if result.became is Became.FAILED and result.problem != _LOST:
            result = replace(result, problem=f"is here, and was not compared: {result.problem}")
        return placed.row, result

    async def _finish(self, compared: tuple[SourceRow, RowResult]) -> None:
        row, result = compared
        if self._wipe is not None and result.became in (Became.IMPORTED, Became.PRESENT):
            result = await self._wiped(self._wipe, row, result)
        self._note(result)

    async def _patiently(self, row: SourceRow, step: Callable[[], Awaitable[_Result]]) -> _Result | RowResult:
        clock = asyncio.get_running_loop()
        until, pause, tries = clock.time() + self._patience, 0.25, 0
        while True:
            tries += 1
            try:
                result = await step()
            except InvalidInput as error:
                return RowResult(row.where, Became.REFUSED, str(error))
            except (ConcurrentUpdate, WriteInterrupted) as error:
                # Another import of the same rows, as a rule: the next try finds what that one stored.
                if tries == _TRIES:
                    return RowResult(row.where, Became.FAILED, str(error), credential_id_of(row))
            except _OF_ONE_ROW as error:
                return RowResult(row.where, Became.FAILED, str(error), credential_id_of(row))
            except TemporarilyUnavailable as error:
                self._report.trouble = error
                self._progress(self._report)
                if clock.time() + pause > until or self._report.stopped_by is not None:
                    raise
            else:
                self._report.trouble = None
                return result
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _wiped(self, wipe: Wipe, row: SourceRow, result: RowResult) -> RowResult:
        if await wipe(row):
            self._report.wiped_now += 1
            return result
        problem = "is here and was compared; in the source it was changed meanwhile, so it was not wiped there"
        return RowResult(row.where, Became.FAILED, problem, result.credential_id)

    def _note(self, result: RowResult) -> None:
        self._report.counts[result.became] += 1
        self._told(result)
        self._progress(self._report)


def needs_a_look(result: RowResult) -> bool:
    """Whether somebody has to look at this row."""
    return result.became in NEEDS_A_LOOK
