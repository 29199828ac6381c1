"""Finding out that Vault and Postgres were restored to different moments, and which credentials that concerns.

Nothing here is told of while a write, rewrap or rotation under way explains it: whatever seems not to fit is looked at
again, row first, before it is reported.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from service.errors import KeyNotFound
from service.modules.event_chain import SealMarks, SealSkew, seal_skew
from service.modules.installation import ensure_same_installation
from service.modules.key_ports import KeyReader
from service.modules.key_records import KeyDescription
from service.modules.ports import CiphertextStore
from service.modules.records import Credential
from service.modules.skew_ports import AnchoredSeal, KeyUse, SkewStore
from service.modules.skew_records import Examined, KeySkew, SkewReport, first_ids, judge
from service.modules.vault_layout import VaultLayout

_log = logging.getLogger(__name__)
_NEWEST_PINS = 8
_PINS_BEFORE_RETIRING = 1_000
_CLOCKS_APART = timedelta(seconds=60)
"""Vault's clock and Postgres' may differ by so much."""
_PAGE = 500
_COUNTED = 10_000
_NAMED = 5
_AT_ONCE = 16
_LOOKS = 3
"""Times that something has to be found before it counts."""
_FRESH_SECONDS = 30.0


class SkewDetector:
    """Compares what Postgres says with what Vault has.

    Guarantees: changes nothing, and reads no ciphertext; what fits, a write under way included, is not reported.
    Does not: know from `quick` alone of every credential (it looks at keys, seals and the newest pins), nor tell
    whether a ciphertext that is there is the right one.
    """

    def __init__(
        self,
        store: SkewStore,
        ciphertexts: CiphertextStore,
        keys: KeyReader,
        seals: SealMarks,
        anchor: AnchoredSeal,
        layout: VaultLayout,
        *,
        look_again_after: float = 0.3,
    ) -> None:
        """`look_again_after`: seconds. A standby of Vault's that lags behind by more than that could look like skew."""
        self._store = store
        self._ciphertexts = ciphertexts
        self._keys = keys
        self._seals = seals
        self._anchor = anchor
        self._layout = layout
        self._pause = look_again_after
        self._types = {layout.transit_key(each): each for each in sorted(layout.credential_types)}

    async def quick(self) -> SkewReport:
        """Keys, seals and the newest pins: after a restore of Vault those are the ones that don't fit.

        Some ten requests to Vault and as many short statements, however many credentials there are. Raises
        InstallationMismatch.
        """
        report = await self._whole()
        await self._add(report, await self._store.newest_pins(_NEWEST_PINS))
        return report

    async def for_retirement(self, key: str) -> SkewReport:
        """What speaks against retiring versions of this key: Postgres may not know under which its ciphertexts are.

        The key, the seals, and the newest 1,000 pins under this key. Raises as `quick`.
        """
        report = await self._whole()
        report.keys = [each for each in report.keys if each.key == key]
        rows = await self._store.newest_pins_of(key, _PINS_BEFORE_RETIRING)
        for start in range(0, len(rows), _PAGE):
            await self._add(report, rows[start : start + _PAGE])
        return report

    async def full(self, limit: int | None = None, progress: Callable[[int], None] | None = None) -> SkewReport:
        """As `quick`, and every row against KV's metadata, or the `limit` that were pinned last.

        `progress` is called with how many have been looked at. Raises as `quick`.
        """
        report = await self._whole()
        if limit is not None:
            rows = await self._store.newest_pins(limit + 1)
            for start in range(0, len(rows[:limit]), _PAGE):
                await self._add(report, rows[start : min(start + _PAGE, limit)], progress)
            report.complete = len(rows) <= limit
            return report
        after: UUID | None = None
        while page := await self._store.page_all(after, _PAGE):
            after = page[-1].id
            await self._add(report, page, progress)
        report.complete = True
        return report

    async def _add(
        self, report: SkewReport, rows: Sequence[Credential], progress: Callable[[int], None] | None = None
    ) -> None:
        report.credentials += [each for each in await self.examine(rows) if each.kinds]
        report.examined += len(rows)
        if progress is not None:
            progress(report.examined)

    async def _whole(self) -> SkewReport:
        """What concerns no single credential."""
        await ensure_same_installation(self._store, self._ciphertexts)
        anchored = await self._anchor.read()  # first: a seal is committed before it is anchored
        seals = SealSkew.MALFORMED if anchored.malformed else await seal_skew(self._seals, anchored.mark)
        return SkewReport(keys=await self._key_skew(), seals=seals)

    async def _key_skew(self) -> list[KeySkew]:
        # Postgres first: by then a version that a row names is there.
        uses = [use for use in await self._store.key_uses(list(self._types)) if max(use.floor, use.highest_version) > 1]
        found = await asyncio.gather(*(self._behind(use) for use in uses))
        return [each for each in found if each is not None]

    async def _behind(self, use: KeyUse) -> KeySkew | None:
        key = await self._described(use.key)
        latest = 0 if key is None else key.latest_version
        remade, remade_ids = 0, list[UUID]()
        if key is not None:
            # A restored Vault makes versions of the same numbers again, and then no number is above its newest one.
            made = {version: at - _CLOCKS_APART for version, at in key.created.items()}
            remade, remade_ids = await self._store.pinned_before(use.key, made, count=_COUNTED + 1, first=_NAMED)
        if max(use.floor, use.highest_version) <= latest and not remade:
            return None
        many, ids = await self._store.above(use.key, latest, count=_COUNTED + 1, first=_NAMED)
        return KeySkew(
            key=use.key,
            latest_version=latest,
            floor=use.floor,
            credentials=min(many, _COUNTED),
            counted_all=many <= _COUNTED,
            first_ids=tuple(ids),
            remade=min(remade, _COUNTED),
            remade_all=remade <= _COUNTED,
            remade_ids=tuple(remade_ids),
        )

    async def _described(self, key: str) -> KeyDescription | None:
        try:
            return await self._keys.describe(key)
        except KeyNotFound:
            return None

    async def examine(self, rows: Sequence[Credential]) -> list[Examined]:
        """Each of these rows against KV's metadata. A row that was deleted meanwhile fits."""
        looked_at = {each.credential.id: each for each in await self._look(rows, {})}
        suspects = {key: each for key, each in looked_at.items() if each.kinds}
        for _ in range(_LOOKS - 1):
            if not suspects:
                break
            await asyncio.sleep(self._pause)
            suspects = await self._look_again(suspects)
        return [suspects.get(key) or Examined(each.credential, each.path, ()) for key, each in looked_at.items()]

    async def _look_again(self, suspects: Mapping[UUID, Examined]) -> dict[UUID, Examined]:
        """Those that still don't fit. One that has been changed since is a write's, and fits."""
        rows = await self._store.find(list(suspects))
        # Before KV is read: an annotation is written after its intent is committed.
        paths = [self._layout.kv_path(row.account_id, row.id) for row in rows]
        still = await self._look(rows, await self._store.intended(paths))
        return {
            each.credential.id: each
            for each in still
            if each.kinds and _pins(each.credential) == _pins(suspects[each.credential.id].credential)
        }

    async def _look(self, rows: Sequence[Credential], intended: Mapping[str, set[int]]) -> list[Examined]:
        limit = asyncio.Semaphore(_AT_ONCE)
        names = sorted({self._layout.transit_key(row.credential_type) for row in rows} & set(self._types))
        keys = dict(zip(names, await asyncio.gather(*map(self._described, names)), strict=True))
        now = datetime.now(UTC)

        async def one(row: Credential) -> Examined:
            path = self._layout.kv_path(row.account_id, row.id)
            async with limit:
                described = await self._ciphertexts.describe(path)
            under_way = any(version > row.reference.kv_version for version in intended.get(path, ()))
            key = keys.get(self._layout.transit_key(row.credential_type))
            return Examined(row, described, judge(row, described, key, now, under_way=under_way))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in rows]
        return [task.result() for task in tasks]


def _pins(row: Credential) -> tuple[int, int]:
    return row.row_version, row.reference.kv_version


class SkewWatch:
    """`SkewDetector.quick`'s advice, for whoever asks, strangers included: credentials' ids are in the log alone.

    Guarantees: both stores are asked at most once in 30 seconds. Does not: notice what changed meanwhile, nor keep a
    failure: then the next one who asks has it tried again.
    """

    def __init__(self, detector: SkewDetector) -> None:
        self._detector = detector
        self._last: str | None = None
        self._looked_at = float("-inf")

    async def advice(self) -> str | None:
        """As `SkewReport.advice`, without ids. Raises as `SkewDetector.quick`. For one caller at a time."""
        if time.monotonic() - self._looked_at >= _FRESH_SECONDS:
            report = await self._detector.quick()
            before, self._last = self._last, report.advice(named=False)
            self._looked_at = time.monotonic()
            if self._last is not None and before is None:
                _log.error(
                    "Vault and Postgres are of different moments",
                    extra={
                        "credentials": len(report.credential_ids),
                        "first": first_ids(report.credential_ids, len(report.credential_ids)),
                        "seals": report.seals,
                    },
                )
        return self._last
