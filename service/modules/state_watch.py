"""Looks now and then at what is in Postgres and Vault, for the metrics: a scrape is answered from the last look."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.errors import KeyNotFound
from service.modules.key_ports import KeyReader, KeyStore
from service.modules.readiness import Check, Readiness
from service.modules.vault_layout import VaultLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCounts:
    """Numbers of rows."""

    suspended_users: int
    suspended_accounts: int
    suspects: int
    intents: int
    intents_due: int  # past their age: what reconciliation has yet to take
    sealed_at: float | None  # Unix time of the newest seal over the events; None: nothing was ever sealed


class StateStore(Protocol):
    """Where the numbers come from."""

    async def counts(self) -> StateCounts: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """A transit key, in numbers."""

    name: str
    latest_version: int
    min_decryption_version: int
    below_latest: int  # credentials
    previous_below_latest: int  # kept previous secrets
    latest_made_at: float | None  # Unix time


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What was found, and when; an empty part could not be looked at."""

    at: float = 0.0  # Unix time; 0: nothing has been looked at yet
    checks: Sequence[Check] = ()
    counts: StateCounts | None = None
    keys: Sequence[KeyState] = field(default_factory=tuple)


class StateWatch:
    """Keeps what it saw last.

    Guarantees: what can't be looked at is missing from what is kept, rather than old. Does not: look by itself.
    """

    def __init__(
        self, readiness: Readiness, store: StateStore, reader: KeyReader, keys: KeyStore, layout: VaultLayout
    ) -> None:
        self._readiness = readiness
        self._store = store
        self._reader = reader
        self._keys = keys
        self._names = [layout.transit_key(each) for each in sorted(layout.credential_types)]
        self.last = State()

    async def look(self) -> None:
        """Looks at all of it. Raises what kept it from looking at Postgres or the keys; the checks are kept even so."""
        checks = await self._readiness.check()
        self.last = State(at=time.time(), checks=checks)
        counts = await self._store.counts()
        self.last = State(at=time.time(), checks=checks, counts=counts)
        found = [await self._key(name) for name in self._names]
        self.last = State(at=time.time(), checks=checks, counts=counts, keys=[key for key in found if key is not None])

    async def _key(self, name: str) -> KeyState | None:
        uses = await self._keys.version_uses(name)
        try:
            vault = await self._reader.describe(name)
        except KeyNotFound:
            return None
        below = [use for use in uses if use.version < vault.latest_version]
        made = vault.created.get(vault.latest_version)
        return KeyState(
            name=name,
            latest_version=vault.latest_version,
            min_decryption_version=vault.min_decryption_version,
            below_latest=sum(use.credentials for use in below),
            previous_below_latest=sum(use.previous_secrets for use in below),
            latest_made_at=made.timestamp() if made else None,
        )
