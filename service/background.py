"""What a service does by itself, again and again, beside what it is asked for."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from service.correlation import start_alone
from service.exception_location import exception_location
from service.modules.reconciliation import Reconciler, ReconciliationReport
from service.modules.state_watch import StateWatch
from service.modules.suspects import Suspects
from service.settings import Settings

_log = logging.getLogger(__name__)
_SWEEP_SECONDS = 30.0


@asynccontextmanager
async def repeating(name: str, interval: float, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Does the work while the block lasts: at once, and `interval` seconds after each time that it has ended.

    Whatever it raises is logged, without a message, and doesn't end it.
    """

    async def loop() -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - one round's trouble, whatever it is, must not end all rounds
                _log.warning("%s failed", name, extra={"exception": exception_location(error)})
            await asyncio.sleep(interval)

    task = start_alone(loop(), name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def reconciling(
    reconciler: Reconciler, settings: Settings, note: Callable[[ReconciliationReport | None], None]
) -> AsyncIterator[None]:
    """Removes what crashes have left, every `reconcile_interval` seconds. `note` gets each report; None for a run that
    came to no end.
    """

    async def reconcile() -> None:
        try:
            report = await reconciler.run(apply=True)
        except Exception:
            note(None)
            raise
        note(report)
        if report.due or report.failed:
            _log.info("reconciled", extra={"removed": report.removed, "failed": report.failed})

    async with repeating("reconciliation", settings.reconcile_interval, reconcile):
        yield


@asynccontextmanager
async def watching(state: StateWatch, settings: Settings) -> AsyncIterator[None]:
    """Looks at what the metrics tell of Postgres and Vault, every `metrics_seconds`."""
    async with repeating("looking at the metrics' state", settings.metrics_seconds, state.look):
        yield


@asynccontextmanager
async def sweeping(suspects: Suspects, settings: Settings) -> AsyncIterator[None]:
    """Disables credentials that stay suspect. Every replica does it; a second one finds nothing left to do."""

    async def sweep() -> None:
        disabled = await suspects.sweep(seconds=settings.suspect_seconds, at_once=settings.suspects_at_once)
        if disabled:
            _log.warning("suspect credentials were disabled", extra={"count": len(disabled)})

    async with repeating("looking at suspects", min(_SWEEP_SECONDS, settings.suspect_seconds), sweep):
        yield
