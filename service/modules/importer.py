"""Importing credentials that are kept somewhere else: each stored once, whatever is repeated, and read back."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from service.errors import (
    ConcurrentUpdate,
    CredentialDenied,
    CredentialsError,
    CredentialUnreadable,
    InvalidInput,
    TemporarilyUnavailable,
    WriteInterrupted,
)
from service.modules.import_records import Became, ImportReport, Mode, RowResult, Source, SourceRow, UnreadableRow
from service.modules.records import ImportAccess
from service.modules.row_importer import LOST, Placed, RowImporter

PATIENCE = 60.0
"""Seconds that what does not answer (Vault, Postgres, a provider) is waited for; then the run stops."""

# Rows go from step to step together, so that they are encrypted, recorded and decrypted in few requests; several such
# groups are under way, so that Vault's KV, which takes them one by one, has something to do meanwhile.
_TOGETHER = 64
_GROUPS = 3
_LONGEST_PAUSE = 5.0

# What is wrong with one credential, or was in its way. Any other error would be every row's.
_OF_ONE_ROW = (CredentialDenied, CredentialUnreadable, ConcurrentUpdate, WriteInterrupted)
_TRIES = 3

Wipe = Callable[[SourceRow], Awaitable[bool]]
"""Wipes a row's keys in its source; False where it is no longer as it was read, and was left alone."""

Told = Callable[[RowResult], None]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Importer:
    """Goes through a source.

    Guarantees: a row has the same id in every run, so whatever is repeated, broken off or run twice at once stores it
    once; a row is wiped in its source only after it was opened here and compared, and only where it is asked for; what
    does not answer is waited for. What holds for each row is at `RowImporter`.
    """

    def __init__(self, rows: RowImporter) -> None:
        self._rows = rows

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
        return await _Run(self._rows, access, mode, told, progress, wipe, patience).over(
            source, stop or asyncio.Event()
        )


class _Run:
    """One run: rows from the source to so many workers, results to the report."""

    def __init__(
        self,
        importer: RowImporter,
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
            check = partial(self._importer.check, self._access)
            try:
                async with aclosing(source.rows(check)) as rows:  # type: ignore[type-var]  # a generator, in each source
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
                for row, result in compared:  # a run that was stopped meanwhile tells of them, too
                    self._note(await self._finished(row, result))

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
        self._report.has_begun = True
        placed = await self._patiently(row, lambda: self._importer.place(self._access, row, self._mode))
        if isinstance(placed, Placed):
            return placed
        self._note(placed)
        return None

    async def _compare(self, placed: Placed) -> tuple[SourceRow, RowResult]:
        result = await self._patiently(placed.row, lambda: self._importer.compare(placed))
        if result.became is Became.FAILED and result.problem != LOST:
            result = replace(result, problem=f"is here, and was not compared: {result.problem}")
        return placed.row, result

    async def _finished(self, row: SourceRow, result: RowResult) -> RowResult:
        is_stopped = self._report.stopped_by is not None
        if self._wipe is None or is_stopped or result.became not in (Became.IMPORTED, Became.PRESENT):
            return result
        try:
            return await self._wiped(self._wipe, row, result)
        except CredentialsError as error:
            self._report.stopped_by = error
            problem = "is here and was compared; it could not be wiped in the source"
            return RowResult(row.where, Became.FAILED, problem, result.credential_id)

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
                    return RowResult(row.where, Became.FAILED, str(error), row.credential_id)
            except _OF_ONE_ROW as error:
                return RowResult(row.where, Became.FAILED, str(error), row.credential_id)
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
