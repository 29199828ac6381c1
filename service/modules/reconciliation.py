"""Cleaning up what a crash left: by the intents, never by listing all of KV. And a full check, which only reports."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from service.errors import (
    CiphertextGone,
    CredentialsError,
    InstallationMismatch,
    TemporarilyUnavailable,
    VaultDenied,
    VaultRefused,
)
from service.modules.installation import ensure_same_installation
from service.modules.ports import CiphertextStore, ReconciliationStore
from service.modules.records import Credential, HeldIntent, WriteIntent
from service.modules.sealed_write import SealedWriter
from service.modules.skew import SkewDetector
from service.modules.skew_records import SkewKind
from service.modules.vault_layout import ANCHOR_PATH, INSTALLATION_PATH, VaultLayout

_log = logging.getLogger(__name__)
_BATCH = 200
_COUNTED = 20_000
"""Intents that a dry run looks at in one statement."""
_AT_ONCE = 4
"""Paths that are settled side by side; each holds a connection to Postgres while Vault is asked."""


@dataclass(slots=True)
class ReconciliationReport:
    """What reconciliation found, and did where it was to be applied."""

    due: int = 0
    removed: int = 0
    kept: int = 0
    held_by_writers: int = 0
    failed: int = 0
    expired_previous: int = 0
    purged_idempotency_keys: int = 0


@dataclass(slots=True)
class ScanReport:
    """What the full check found. Nothing is deleted by it."""

    credentials: int = 0
    broken: list[UUID] = field(default_factory=list)
    """Credentials whose pinned ciphertext is not in KV."""
    skewed: list[str] = field(default_factory=list)
    """Credentials that don't fit what Vault has of them, and how, in words; those that are broken among them."""
    unaccounted: list[str] = field(default_factory=list)
    """KV versions (`path@version`) that no row pins and no intent accounts for; paths that aren't a credential's."""


class Reconciler:
    """Removes what no row pins and an intent accounts for.

    Guarantees: nothing that a row pins is removed, nor anything of a credential whose present ciphertext isn't there;
    a writer whose intent is taken can't commit; nothing is touched where Vault and Postgres don't carry the same
    installation id. Does not: remove what no intent accounts for.
    """

    def __init__(
        self,
        store: ReconciliationStore,
        ciphertexts: CiphertextStore,
        sealed_writer: SealedWriter,
        skew: SkewDetector,
        layout: VaultLayout,
    ) -> None:
        self._store = store
        self._ciphertexts = ciphertexts
        self._sealed = sealed_writer
        self._skew = skew
        self._layout = layout

    async def ensure_same_installation(self) -> None:
        """Raises InstallationMismatch unless Vault and Postgres carry the same id."""
        await ensure_same_installation(self._store, self._ciphertexts)

    async def run(self, *, apply: bool) -> ReconciliationReport:
        """Takes every intent past its age. Without `apply`: says what is due and touches nothing."""
        await self.ensure_same_installation()
        report = ReconciliationReport()
        if apply:
            report.expired_previous = await self._expire_previous()
            report.purged_idempotency_keys = await self._store.purge_idempotency()
        batch = _BATCH if apply else _COUNTED
        left: set[UUID] = set()  # those that are still there after their turn, so that the others cost nothing more
        while due := [intent for intent in await self._store.due_intents(batch + len(left)) if intent.id not in left]:
            report.due += len(due)
            left |= await self._settle_each(due, report) if apply else {intent.id for intent in due}
        return report

    async def _settle_each(self, due: Sequence[WriteIntent], report: ReconciliationReport) -> set[UUID]:
        """Some paths at a time, a path's intents one after the other. Returns those that could not be settled."""
        paths: dict[str, list[WriteIntent]] = {}
        for intent in due:
            paths.setdefault(intent.kv_path, []).append(intent)
        limit = asyncio.Semaphore(_AT_ONCE)

        async def settle(intents: Sequence[WriteIntent]) -> set[UUID]:
            async with limit:
                return {intent.id for intent in intents if not await self._settle(intent, report)}

        outcomes = await asyncio.gather(*map(settle, paths.values()), return_exceptions=True)
        left: set[UUID] = set()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            left |= outcome
        return left

    async def _expire_previous(self) -> int:
        total = 0
        while expired := await self._store.expire_previous(_BATCH):
            total += expired
        return total

    async def _settle(self, intent: WriteIntent, report: ReconciliationReport) -> bool:
        """Returns whether the intent is gone."""
        try:
            # Before the intent is held: whoever may yet write a version that isn't there has an intent of its own then.
            newest = await self._ciphertexts.newest_version(intent.kv_path)
            async with self._store.hold_intent(intent) as held:
                if held is None:
                    report.held_by_writers += 1
                    return False
                self._ensure_own_path(intent, held.credential)
                removed = False
                if await self._is_to_settle(intent, held, newest):
                    removed = await self._sealed.settle(intent, held.credential, alone=held.alone)
        except CredentialsError as error:
            report.failed += 1
            _log.info("an intent could not be reconciled", extra={"intent": intent.id, "error": type(error).__name__})
            if not isinstance(error, TemporarilyUnavailable):
                await self._store.defer(intent)
            return False
        if removed:
            report.removed += 1
        else:
            report.kept += 1
        return True

    async def _is_to_settle(self, intent: WriteIntent, held: HeldIntent, newest: int) -> bool:
        """Whether the intent's version is this one's to settle; if not, the intent is forgotten.

        Raises CiphertextGone where what the row pins isn't in KV: as after a restore of Vault or Postgres, the version
        may be the last one that holds its secret.
        """
        row = held.credential
        if row is None:
            # Two imports of one row: who of them wrote the version, if either did, is known when one intent is left.
            return intent.kv_version is None or not held.shared
        if intent.kv_version is None or intent.kv_version in row.pinned_versions:
            return True
        # A restored Vault counts anew: a number that isn't there, or is another intent's too, is for a later write.
        if intent.kv_version > newest or held.shared:
            return False
        if row.reference.kv_version not in await self._ciphertexts.live_versions(intent.kv_path):
            raise CiphertextGone
        return True

    def _ensure_own_path(self, intent: WriteIntent, credential: Credential | None) -> None:
        """An intent whose path was changed by hand must not lead to another credential's ciphertext."""
        if credential is not None:
            fits = intent.kv_path == self._layout.kv_path(credential.account_id, credential.id)
        else:
            account, _, name = intent.kv_path.partition("/")
            fits = name == str(intent.credential_id) and list(_uuids([account])) != []
        if not fits:
            raise InstallationMismatch("An intent names a path that is not its credential's")

    async def scan(self, *, apply: bool) -> ScanReport:
        """Compares every row with KV, and every path in KV with the rows.

        Only reports. With `apply`, rows are marked broken, or not broken any more; nothing else changes.
        """
        await self.ensure_same_installation()
        report = ScanReport()
        after: UUID | None = None
        while page := await self._store.page_all(after, _BATCH):
            after = page[-1].id
            report.credentials += len(page)
            examined = await self._skew.examine(page)
            report.skewed += [f"{each.credential.id}: {each.meaning}" for each in examined if each.kinds]
            broken = [each.credential.id for each in examined if SkewKind.PIN_GONE in each.kinds]
            for each in examined:
                row = each.credential
                path = self._layout.kv_path(row.account_id, row.id)
                await self._note_unaccounted(path, set(each.path.live - row.pinned_versions), report)
            report.broken += broken
            if apply:
                await self._store.mark_broken(broken, True)
                await self._store.mark_broken([row.id for row in page if row.id not in broken], False)
        async for folder, names in self._folders(report):
            await self._scan_folder(folder, names, report)
        return report

    async def _scan_folder(self, folder: str, names: list[str], report: ScanReport) -> None:
        """Notes the paths of a folder that are no row's."""
        rows = await self._store.find(list(_uuids(names)))
        owned = {self._layout.kv_path(row.account_id, row.id) for row in rows}
        for path in (folder + name for name in names):
            if path in owned:
                continue
            try:
                await self._note_unaccounted(path, await self._ciphertexts.live_versions(path), report)
            except (VaultDenied, VaultRefused):
                report.unaccounted.append(path)  # not one that this service writes, nor may read

    async def _note_unaccounted(self, path: str, versions: set[int], report: ScanReport) -> None:
        if not versions:
            return
        accounted = await self._store.open_intent_versions(path)
        if None not in accounted:
            report.unaccounted += [f"{path}@{version}" for version in sorted(versions - accounted)]

    async def _folders(self, report: ScanReport) -> AsyncIterator[tuple[str, list[str]]]:
        for folder in await self._ciphertexts.list_paths():
            if folder.endswith("/") and list(_uuids([folder[:-1]])):
                yield folder, await self._ciphertexts.list_paths(folder)
            elif folder not in (INSTALLATION_PATH, ANCHOR_PATH):
                report.unaccounted.append(folder)


def _uuids(names: Iterable[str]) -> Iterator[UUID]:
    """Those of the names that are ids as this service writes them."""
    for name in names:
        with suppress(ValueError):
            found = UUID(name)
            if str(found) == name:
                yield found
