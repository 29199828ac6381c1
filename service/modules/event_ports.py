"""What sealing and verifying the events need from outside, as protocols, like `ports.py`. Errors as there."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from service.modules.event_chain import EventRange, EventSeal, SealedEvent, SealMark, SealMarks


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """How far transactions have come, in one moment."""

    at: datetime
    cluster_id: int
    installation_id: UUID
    oldest_xid: int
    """Of the transactions under way, or the next one where none is: every event of one below is there to be read."""
    next_xid: int
    """No transaction of this cluster has had this number, or a greater one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTable:
    """A table that verification reads, or a partition of it."""

    name: str
    is_plain: bool
    """It is of the kind that a migration makes, in that schema: no view, and no foreign table."""
    has_policies: bool
    has_rules: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The events of one cluster, for `outside`."""

    after_id: int
    until_id: int
    upto_xid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealedEvents:
    """What has been recorded and not been sealed yet."""

    events: int
    since: datetime | None
    held: int
    """Of transactions that can't be sealed before one under way has ended."""
    held_since: datetime | None
    """That one has been under way since before this."""
    foreign: int
    """Of transactions that this cluster hasn't begun: restored from another one, or put in by hand."""


class EventReader(Protocol):
    """The events, as they are sealed."""

    def events(self, wanted: EventRange) -> AsyncGenerator[Sequence[SealedEvent]]:
        """In the order of transaction and number, some hundreds at a time. To be closed by `contextlib.aclosing`."""
        ...

    async def horizon(self) -> Horizon: ...

    async def newest(self) -> EventSeal | None: ...


class SealStore(EventReader, SealMarks, Protocol):
    """Postgres, as the rotator's role."""

    async def add(self, seal: EventSeal) -> bool:
        """Commits a seal. False where there is one of this number already."""
        ...

    async def greatest_id(self, *, from_xid: int, after_id: int, below_id: int | None = None) -> int | None:
        """The greatest number of an event of these transactions; None where there is none."""
        ...

    async def least_id(self, *, below_xid: int, after_id: int) -> int | None:
        """The least number above `after_id`, of an event of these transactions; None where there is none."""
        ...


class SealArchive(EventReader, SealMarks, Protocol):
    """Postgres, as the auditor's role."""

    async def tables(self) -> list[EventTable]:
        """What the others read. A statement fails (DatabaseNotReady) where a table has policies."""
        ...

    async def seals(self, after: int, upto: int, limit: int) -> list[EventSeal]:
        """By number."""
        ...

    async def segment_starts(self, limit: int) -> list[int]:
        """Each `after_id` that some seal has, in order."""
        ...

    async def outside(self, segments: Sequence[Segment]) -> int:
        """How many events are in none of these."""
        ...

    async def unsealed(self, after_id: int, from_xid: int, since_id: int) -> UnsealedEvents:
        """Events above `after_id` that are of these transactions, or else above `since_id`."""
        ...


class Signature(NamedTuple):
    """A signature by Vault, and the version of the key that made it."""

    key_version: int
    value: bytes


class EventSigner(Protocol):
    """Vault's key for seals: ed25519, and the private half never leaves Vault."""

    async def sign(self, digest: bytes) -> Signature: ...

    async def public_keys(self) -> Mapping[int, bytes]:
        """By version, 32 bytes each (RFC 8032): those at or above the key's `min_decryption_version`."""
        ...


class Anchored(NamedTuple):
    """What is at the anchor's path, and its KV version; 0 where there is nothing.

    `malformed`: something is there, and it is no mark. The sealer writes none such.
    """

    mark: SealMark | None
    version: int
    malformed: bool = False


class SealAnchor(Protocol):
    """The newest seal, in Vault's KV."""

    async def read(self) -> Anchored:
        """No mark: none was ever written, it was deleted, or what is there is malformed."""
        ...

    async def write(self, mark: SealMark, *, cas: int) -> None:
        """Raises CasMismatch. Never tried twice."""
        ...
