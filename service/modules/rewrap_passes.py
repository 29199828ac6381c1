"""Rewrapping all of a key's credentials: batch after batch in passes over the table, until a pass leaves nothing."""

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID

from service.modules.key_ports import KeyRing, RotationStore
from service.modules.key_records import Job, JobReason
from service.modules.rewrapper import BatchReport, Rewrapper

_TURN = 1.0
"""Seconds; then whoever runs the jobs looks whether one is to stop, or another waits."""
_LOCKED = 0.5
"""Seconds that rows may be locked: what a user's update may have to wait for."""
_LANES = 3
"""Batches side by side, so that Vault has writes to do while another batch is being read or committed."""


@dataclass(slots=True)
class _Pass:
    """How far this process is with a job. It may forget that: the rows say what is left to do."""

    cursors: list[UUID | None]
    ended: list[bool]
    moved: int = 0


class RewrapPasses:
    """Does jobs that rewrap, a turn at a time.

    Guarantees: a job ends when every row is at its version or noted as failed; several processes may have turns at
    the same job at once; rows are locked for about half a second; not more than `per_second` credentials are taken, on
    average over some seconds. Does not: keep anything that a restart would lose.
    """

    def __init__(
        self,
        store: RotationStore,
        keys: KeyRing,
        rewrapper: Rewrapper,
        stopping: asyncio.Event,
        *,
        batch: int,
        per_second: float,
    ) -> None:
        """`batch`: credentials at most in one. `per_second`: 0 for as many as can be. `stopping`: ends a turn early."""
        self._store = store
        self._keys = keys
        self._rewrapper = rewrapper
        self._stopping = stopping
        self._largest = min(batch, max(1, int(per_second))) if per_second else batch
        self._per_second = per_second
        self._size = self._largest
        self._due = 0.0  # when the next batch may begin, by the rate
        self._passes: dict[UUID, _Pass] = {}

    async def turn(self, job: Job) -> bool:
        """A second's work on a job, or what there is. Returns False where others hold all that is left.

        Raises:
            CredentialsError: Vault or Postgres has trouble. The job is as far as it is.
        """
        if job.to_version is None or job.total is None:
            key = await self._keys.describe(job.transit_key)
            await self._store.note_versions(key)
            job = await self._store.note_start(job, from_version=None, to_version=key.latest_version)
        assert job.to_version is not None  # noqa: S101 - has been set, by this process or another
        progress = self._passes.setdefault(job.id, _Pass([None] * _LANES, [False] * _LANES))
        until = time.monotonic() + _TURN
        # Each ends its batch, whatever becomes of the other: one that is cut short leaves work to reconciliation.
        outcomes = await asyncio.gather(
            *(self._lane(job, job.to_version, progress, lane, until) for lane in range(_LANES)), return_exceptions=True
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        return not all(progress.ended) or await self._end_pass(job, job.to_version, progress)

    def forget(self, job: Job) -> None:
        """Of a job that is over, whoever ended it."""
        self._passes.pop(job.id, None)

    async def _lane(self, job: Job, to_version: int, progress: _Pass, lane: int, until: float) -> None:
        while not progress.ended[lane] and time.monotonic() < until and not self._stopping.is_set():
            size = self._size
            started = time.monotonic()
            report = await self._rewrapper.batch(job, to_version, progress.cursors[lane], size)
            progress.moved += report.taken
            progress.cursors[lane], progress.ended[lane] = report.last, report.taken < size
            if report.trouble is not None:
                raise report.trouble
            self._adapt(report, size, time.monotonic() - started)
            await self._keep_to_rate(report.taken)

    def _adapt(self, report: BatchReport, size: int, seconds: float) -> None:
        if seconds > _LOCKED:
            self._size = max(1, int(size * _LOCKED / seconds))
        elif report.taken == size and seconds < _LOCKED / 2:
            self._size = min(self._largest, size * 2)

    async def _keep_to_rate(self, taken: int) -> None:
        if not self._per_second or not taken:
            return
        now = time.monotonic()
        self._due = max(self._due, now) + taken / self._per_second
        await wait(self._stopping, self._due - now)

    async def _end_pass(self, job: Job, to_version: int, progress: _Pass) -> bool:
        """Ends the job where nothing remains, else begins again: others had rows, or there was trouble with some."""
        del self._passes[job.id]
        if await self._store.remaining(job, to_version):
            return progress.moved > 0
        # Counted by now: a batch's failures are committed together with the count.
        failed = (await self._store.job(job.id)).failed
        await self._store.end(job, reason=JobReason.SOME_FAILED if failed else None)
        return True


async def wait(stopping: asyncio.Event, seconds: float) -> None:
    """Waits so long, or until it is set."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        pass
