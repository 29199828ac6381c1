"""`last_used_at`, written in the background: opening a credential never waits for it, nor locks the row."""

import asyncio
import logging
import time
from contextlib import suppress
from uuid import UUID

from service.correlation import start_alone
from service.errors import CredentialsError
from service.modules.ports import CredentialStore

_log = logging.getLogger(__name__)
_EVERY = 60.0
_GATHER = 1.0
_REMEMBERED = 10_000


class UsageRecorder:
    """Notes that credentials were opened.

    Guarantees: at most one write a minute for each credential, many credentials in one statement. Does not: guarantee
    that every use is noted; the events are the record.
    """

    def __init__(self, store: CredentialStore) -> None:
        self._store = store
        self._waiting: set[UUID] = set()
        self._noted: dict[UUID, float] = {}
        self._flusher: asyncio.Task[None] | None = None

    def note(self, credential_id: UUID) -> None:
        """This credential has just been opened. Returns at once."""
        now = time.monotonic()
        if now - self._noted.get(credential_id, -_EVERY) < _EVERY:
            return
        if len(self._noted) >= _REMEMBERED:
            self._noted.clear()  # Postgres keeps the minute too, so forgetting costs a statement and nothing else
        self._noted[credential_id] = now
        self._waiting.add(credential_id)
        if self._flusher is None or self._flusher.done():
            self._flusher = start_alone(self._flush_soon(), "usage")

    async def _flush_soon(self) -> None:
        await asyncio.sleep(_GATHER)
        await self.flush()

    async def flush(self) -> None:
        """Writes what is waiting; gives up on it where Postgres can't."""
        ids, self._waiting = list(self._waiting), set()
        if not ids:
            return
        try:
            await self._store.touch_used(ids)
        except CredentialsError as error:
            _log.info("last_used_at was not written", extra={"error": type(error).__name__, "count": len(ids)})

    async def close(self) -> None:
        """Writes what is waiting, and ends."""
        if self._flusher is not None:
            self._flusher.cancel()
            with suppress(asyncio.CancelledError):
                await self._flusher
        await self.flush()
