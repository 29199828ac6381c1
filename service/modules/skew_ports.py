"""What finding and mending skew need from outside, as protocols, like `ports.py`. Errors as there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from service.modules.event_ports import Anchored
from service.modules.records import Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """What Postgres says of a transit key."""

    key: str
    floor: int
    highest_version: int  # that a credential or a kept secret is under; 0: none is


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesMade:
    """Whether a row's secrets have been copied to other KV versions (rewrapped) since they were written."""

    present: bool
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPin:
    """Where the secret before the last update is."""

    kv_version: int
    secret_version: int
    transit_key_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repin:
    """A row that is to be pinned elsewhere. Its secret version never falls: a number is never used twice."""

    before: Credential
    kv_version: int
    secret_version: int
    transit_key_version: int
    previous: KeptPin | None
    previous_expires_at: datetime | None
    """None: kept from now on, as after an update."""
    discarded: Sequence[int]
    """Live KV versions of this credential's that the row won't pin any more."""
    batch_id: UUID
    """Under which Vault has been asked which ciphertext fits."""


class SkewStore(Protocol):
    """Postgres, as the runtime's role."""

    async def installation_id(self) -> UUID | None: ...

    async def key_uses(self, keys: Sequence[str]) -> list[KeyUse]:
        """Of those keys that this installation has a floor for."""
        ...

    async def above(self, key: str, version: int, *, count: int, first: int) -> tuple[int, list[UUID]]:
        """How many credentials are under later versions of a key, counted up to `count`, and the first ids."""
        ...

    async def pinned_before(
        self, key: str, made: Mapping[int, datetime], *, count: int, first: int
    ) -> tuple[int, list[UUID]]:
        """How many credentials were pinned under one of these versions before its time, and ids, as `above`."""
        ...

    async def newest_pins(self, limit: int) -> list[Credential]:
        """Those that were pinned last, newest first."""
        ...

    async def newest_pins_of(self, key: str, limit: int) -> list[Credential]:
        """As `newest_pins`, of those under this key."""
        ...

    async def page_all(self, after: UUID | None, limit: int) -> list[Credential]:
        """Every credential, by id."""
        ...

    async def find(self, credential_ids: Sequence[UUID]) -> list[Credential]:
        """Those of these credentials that there are."""
        ...

    async def intended(self, kv_paths: Sequence[str]) -> Mapping[str, set[int]]:
        """The KV versions of these paths that intents account for."""
        ...

    async def copies_made(self, credential_id: UUID) -> CopiesMade:
        """By the events of what pinned the row."""
        ...

    async def repin(self, repin: Repin, *, actor: str) -> Credential | None:
        """Moves a row, with an event, and leaves intents for what is discarded, due when a kept secret would be.

        None where the row has been changed since it was read.
        """
        ...


class AnchoredSeal(Protocol):
    """The newest seal over the events, as Vault has it."""

    async def read(self) -> Anchored: ...
