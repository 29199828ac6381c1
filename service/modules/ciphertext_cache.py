"""Ciphertexts that were read from KV a short while ago. What is pinned never changes, so nothing goes stale."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic

from service.errors import CredentialsError, again
from service.measures import BatchMeter
from service.modules.coalescer import FairQueue
from service.modules.ports import CiphertextStore
from service.modules.records import Seal

_OVERHEAD = 600
"""Bytes that an entry takes beside its path and ciphertext: objects' headers, the dictionary's share (measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """How much is kept, for how long, and how it is read."""

    size: int
    """Bytes in all, the dictionary's own included; 0 keeps nothing."""
    seconds: float
    """After this an entry is read again, so that what somebody destroyed in KV stops opening."""
    reads_at_once: int
    waiting: int


class CiphertextCache:
    """Reads ciphertexts by path and pinned version, and keeps them: never plaintext.

    Guarantees: bounded by bytes, the least recently used goes first; nothing older than `limits.seconds` is handed
    out; one read at a time for each path and version, whoever asks, and so many at once in all, fairly between users.
    Does not: notice that a version was destroyed before its entry is that old.
    """

    def __init__(self, store: CiphertextStore, limits: CacheLimits, *, meter: BatchMeter | None = None) -> None:
        self._store = store
        self._limits = limits
        self._kept: OrderedDict[tuple[str, int], tuple[Seal, float]] = OrderedDict()
        self._size = 0
        self._reading: dict[tuple[str, int], asyncio.Task[Seal]] = {}
        self._queue = FairQueue(at_once=limits.reads_at_once, waiting=limits.waiting, name="kv-reads", meter=meter)
        self.hits = 0
        """Ciphertexts that were handed out from here."""
        self.misses = 0
        """Reads from KV, one for all who wait for it."""

    @property
    def size(self) -> int:
        """Bytes that are held, about."""
        return self._size

    def held(self, path: str, version: int) -> Seal | None:
        """The ciphertext, if it is here and young enough."""
        key = (path, version)
        kept = self._kept.get(key)
        if kept is None:
            return None
        seal, until = kept
        if monotonic() >= until:
            self.forget(path, version)
            return None
        self._kept.move_to_end(key)
        self.hits += 1
        return seal

    async def read(self, path: str, version: int, *, user_id: str) -> Seal:
        """The ciphertext, from here or from KV.

        Raises:
            CiphertextGone, CredentialUnreadable, Busy, and what reading may raise.
        """
        if (seal := self.held(path, version)) is not None:
            return seal
        key = (path, version)
        reading = self._reading.get(key)
        if reading is None:
            reading = asyncio.create_task(self._fetch(key, user_id), name="kv-read")
            self._reading[key] = reading
            reading.add_done_callback(lambda done: self._has_read(key, done))
        try:
            # Shielded: others may be waiting for the same read.
            return await asyncio.shield(reading)
        except CredentialsError as error:
            raise again(error) from None

    def forget(self, path: str, version: int) -> None:
        """Has it read again next time: what was here did not decrypt."""
        kept = self._kept.pop((path, version), None)
        if kept is not None:
            self._size -= _size_of(path, kept[0])

    async def aclose(self) -> None:
        """Ends the reads under way."""
        await self._queue.aclose()

    async def _fetch(self, key: tuple[str, int], user_id: str) -> Seal:
        path, version = key
        self.misses += 1
        seal = await self._queue.run(lambda: self._store.read(path, version), group=user_id)
        self._keep(path, version, seal)
        return seal

    def _has_read(self, key: tuple[str, int], done: "asyncio.Task[Seal]") -> None:
        del self._reading[key]
        if not done.cancelled():
            done.exception()  # every caller may have gone; the error is nobody's then

    def _keep(self, path: str, version: int, seal: Seal) -> None:
        size = _size_of(path, seal)
        if size > self._limits.size or self._limits.seconds <= 0:
            return
        self.forget(path, version)
        self._kept[path, version] = seal, monotonic() + self._limits.seconds
        self._size += size
        while self._size > self._limits.size:
            (old_path, _), (old, _) = self._kept.popitem(last=False)
            self._size -= _size_of(old_path, old)


def _size_of(path: str, seal: Seal) -> int:
    return len(path) + len(seal.ciphertext) + _OVERHEAD
