"""The chain of seals over the events: what is hashed, and how. No input or output here.

An event, as it is hashed, is Postgres' own binary form of its row: the number of columns, then each one's type, length
(-1 for NULL) and bytes, as `record_send` writes it (`seals.sql` names the columns and their order). Lengths everywhere,
so no two lists of events have the same bytes.

A seal covers the events of an interval of transactions. Its hash takes in that of the seal before, so that each seal
stands for all before it. https://developer.hashicorp.com/vault/api-docs/secret/transit#sign-data signs it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

_EVENTS_FORMAT = b"vault-credentials events 1\n"
_SEAL_FORMAT = b"vault-credentials seal 1\n"
"""The numbers count formats: with another column in the events, both are the next ones."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # Postgres'
_MICROSECOND = timedelta(microseconds=1)

_AT = slice(28, 36)  # after the count of columns, the number (type, length, 8 bytes), and the time's type and length

NO_SEAL = bytes(32)
"""Stands for the seal before the first one."""

LAST_XID = 2**64 - 1
"""Above every transaction. A seal up to here is its segment's last one."""


class SealedEvent(NamedTuple):
    """One event: the transaction that wrote it, its number, and the bytes that are hashed."""

    xid: int
    id: int
    encoded: bytes

    @property
    def at(self) -> int:
        """Microseconds since 2000-01-01 UTC, from the bytes that are hashed."""
        return int.from_bytes(self.encoded[_AT], "big", signed=True)


class EventDigest:
    """SHA-256 over events, one after the other; it keeps none of them."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(_EVENTS_FORMAT)
        self.count = 0
        self.greatest_id: int | None = None

    def add(self, event: SealedEvent) -> None:
        """Events have to come in the order of transaction and number."""
        encoded = event.encoded
        self._hash.update(len(encoded).to_bytes(4, "big") + encoded)
        self.count += 1
        if self.greatest_id is None or event.id > self.greatest_id:
            self.greatest_id = event.id

    def digest(self) -> bytes:
        """Of the events so far: 32 bytes."""
        return self._hash.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRange:
    """Which events a seal covers: `from_xid <= xid < upto_xid` and `after_id < id`, `id <= until_id` if that is set.

    Transactions count upwards for as long as the database stays in one cluster (what initdb made). A database that is
    restored from a dump into another one goes on in a new segment: its events are those above `after_id`, and
    `until_id` bounds the segment before.
    """

    after_id: int
    until_id: int | None = None
    from_xid: int
    upto_xid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSeal:
    """One row of `event_seals`. Transactions and hashes as in `EventRange` and `seal_sha256`."""

    number: int
    sealed_at: int
    """Microseconds since 2000-01-01 UTC, as Postgres keeps it: any value that is written there can be hashed."""
    cluster_id: int
    """The database cluster's system identifier, by which another one is told."""
    after_id: int
    upto_id: int
    """The greatest event number up to here, in the whole chain."""
    from_xid: int
    upto_xid: int
    events: int
    events_sha256: bytes
    sha256: bytes = b""
    key_version: int = 0
    signature: bytes = b""

    @property
    def mark(self) -> "SealMark":
        return SealMark(self.number, self.sha256)

    def range(self, until_id: int | None) -> EventRange:
        """The events it covers; `until_id` is where the next segment begins."""
        return EventRange(after_id=self.after_id, until_id=until_id, from_xid=self.from_xid, upto_xid=self.upto_xid)

    def hashed(self, installation_id: UUID, previous: bytes) -> "EventSeal":
        """With its hash; not signed yet."""
        return replace(self, sha256=seal_sha256(self, installation_id, previous))

    def signed(self, key_version: int, signature: bytes) -> "EventSeal":
        """With Vault's signature of its hash."""
        return replace(self, key_version=key_version, signature=signature)


class SealMark(NamedTuple):
    """What stands for a seal, and for all before it: its number and hash."""

    number: int
    sha256: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.sha256.hex()}"


def seal_sha256(seal: EventSeal, installation_id: UUID, previous: bytes) -> bytes:
    """A seal's hash: every field has a fixed length. `previous` is the hash of the seal before, or `NO_SEAL`.

    Whatever integers a row of `event_seals` can hold, they have their own bytes.
    """
    return hashlib.sha256(
        b"".join(
            (
                _SEAL_FORMAT,
                installation_id.bytes,
                seal.number.to_bytes(8, "big", signed=True),
                seal.sealed_at.to_bytes(8, "big", signed=True),
                seal.cluster_id.to_bytes(8, "big", signed=True),
                seal.after_id.to_bytes(8, "big", signed=True),
                seal.upto_id.to_bytes(8, "big", signed=True),
                seal.from_xid.to_bytes(8, "big"),
                seal.upto_xid.to_bytes(8, "big"),
                seal.events.to_bytes(8, "big", signed=True),
                hashlib.sha256(seal.events_sha256).digest(),
                hashlib.sha256(previous).digest(),
            )
        )
    ).digest()


def microseconds(at: datetime) -> int:
    """A time as Postgres keeps it."""
    return (at - _EPOCH) // _MICROSECOND


def time_of(since_2000: int) -> datetime | None:
    """The inverse of `microseconds`; None for what no datetime can be (Postgres has infinity, and years before 1)."""
    try:
        return _EPOCH + since_2000 * _MICROSECOND
    except OverflowError:
        return None


def contiguous(before: EventSeal | None, seal: EventSeal) -> bool:
    """Whether a seal begins where the one before ended: in the same segment, or in a new one."""
    if before is None:
        return (seal.after_id, seal.from_xid) == (0, 0)
    if seal.after_id == before.after_id and before.upto_xid != LAST_XID:
        return seal.from_xid == before.upto_xid
    return (seal.after_id, seal.from_xid) == (before.upto_id, 0)


# --- the newest seal, in Vault too ------------------------------------------------------------------------------------


class SealSkew(StrEnum):
    """How Postgres' chain can fail to have the seal that is anchored in Vault."""

    CUT = "cut"
    """It ends before: its end was removed, or Postgres was restored to before that seal was made."""
    FORKED = "forked"
    """It has another seal of that number: as CUT, and events were sealed since; or seals were replaced."""
    MALFORMED = "malformed"
    """What is anchored is no seal's number and hash: somebody else than the sealer has written there."""


class SealMarks(Protocol):
    """The seals in Postgres."""

    async def newest_seal(self) -> SealMark | None:
        """None where nothing has been sealed yet."""
        ...

    async def seal_mark(self, number: int) -> SealMark | None:
        """None where there is no seal of this number."""
        ...


async def seal_skew(marks: SealMarks, anchored: SealMark | None) -> SealSkew | None:
    """None where the chain has the anchored seal, or nothing is anchored. Read the anchor first: seals come before."""
    if anchored is None:
        return None
    found = await marks.seal_mark(anchored.number)
    if found == anchored:
        return None
    newest = await marks.newest_seal()
    return SealSkew.CUT if newest is None or newest.number < anchored.number else SealSkew.FORKED


def segments(after_ids: Iterable[int]) -> dict[int, int | None]:
    """For each segment, by its `after_id`, where it ends: the next one's; None for the last one."""
    ordered = sorted(after_ids)
    return dict(zip(ordered, [*ordered[1:], None], strict=False))  # of none there is none
