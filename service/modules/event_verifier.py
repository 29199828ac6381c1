"""Verifying the events against their seals: what was removed, altered or put in since they were sealed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from service.errors import DatabaseNotReady
from service.modules.event_chain import (
    LAST_XID,
    NO_SEAL,
    EventDigest,
    EventRange,
    EventSeal,
    SealedEvent,
    SealMark,
    contiguous,
    seal_sha256,
    segments,
    time_of,
)
from service.modules.event_ports import (
    Anchored,
    EventSigner,
    EventTable,
    Horizon,
    SealAnchor,
    SealArchive,
    Segment,
    UnsealedEvents,
)

_PAGE = 100
_MOST_FINDINGS = 100
_MOST_SEGMENTS = 1000
_GREATEST_ID = 2**63 - 1
_CLOCK_STEP = 30_000_000
"""Microseconds by which Postgres' clock may have been put back between an event and its seal."""


_NOTHING_UNSEALED = UnsealedEvents(events=0, since=None, held=0, held_since=None, foreign=0)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that doesn't fit. `seal` is which one; its events were sealed after `since`, by `until`."""

    problem: str
    seal: int | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(slots=True, kw_only=True)
class VerificationReport:
    """What came of a verification. It found nothing wrong where `problems` is 0."""

    installation_id: UUID | None = None
    unread: bool = False
    """No event was looked at: the tables are not as a migration makes them, and could show anything."""
    seals: int = 0
    events: int = 0
    """How many are covered by seals."""
    late: int = 0
    """How many of them say that they are older than the seal before theirs."""
    late_seal: int | None = None
    """The first seal that covers such."""
    newest: SealMark | None = None
    sealed_until: datetime | None = None
    anchor: SealMark | None = None
    unsealed: UnsealedEvents = _NOTHING_UNSEALED
    problems: int = 0
    findings: list[Finding] = field(default_factory=list)
    """The first hundred."""

    def note(self, finding: Finding) -> None:
        self.problems += 1
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(finding)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    seals: int
    of_seals: int
    events: int


class EventVerifier:
    """Checks the whole chain, from its first seal.

    Guarantees: an event that was sealed and has been removed, altered or moved since is found, and one that was put in
    among sealed ones; so is the chain's end where it is cut off and Vault's anchor, or a mark noted elsewhere, tells of
    it. Tables that are not as a migration makes them are found, and nothing else is looked at. Holds a page of events
    and of seals in memory. Does not: know what was done to events before they were sealed (one put in with an
    earlier time is counted as late, as one of a slow transaction is), nor find anything where somebody has both
    Postgres and Vault's signing key and anchor to use, or changes Postgres itself.
    """

    def __init__(self, archive: SealArchive, signer: EventSigner, anchor: SealAnchor) -> None:
        self._archive = archive
        self._signer = signer
        self._anchor = anchor

    async def verify(
        self, expected: SealMark | None = None, progress: Callable[[Progress], None] = lambda _progress: None
    ) -> VerificationReport:
        """Verifies what is sealed when it begins. `expected`: a mark that the chain has to have.

        Raises:
            KeyNotFound, VaultDenied and the rest: what it takes could not be read, and nothing is known.
        """
        if (unread := await self._unreadable()) is not None:
            return unread
        try:
            report = await self._verified(expected, progress)
        except DatabaseNotReady:
            # A policy made meanwhile lets statements fail.
            if (unread := await self._unreadable()) is not None:
                return unread
            raise
        return await self._unreadable() or report  # made meanwhile, again

    async def _unreadable(self) -> VerificationReport | None:
        """What is wrong with the tables themselves."""
        report = VerificationReport(unread=True)
        for table in await self._archive.tables():
            if (wrong := _wrong_with(table)) is not None:
                report.note(Finding(f"the table {table.name!r} {wrong}"))
        return report if report.problems else None

    async def _verified(self, expected: SealMark | None, progress: Callable[[Progress], None]) -> VerificationReport:
        keys = await self._signer.public_keys()
        anchored = await self._anchor.read()  # first: a seal is there before it is anchored
        horizon, newest = await self._archive.horizon(), await self._archive.newest()
        report = VerificationReport(
            installation_id=horizon.installation_id,
            anchor=anchored.mark,
            newest=newest.mark if newest else None,
            sealed_until=time_of(newest.sealed_at) if newest else None,
        )
        marks = [mark for mark in (anchored.mark, expected) if mark is not None]
        ends = await self._segment_ends(report, newest, horizon)
        walk = _Walk(report, horizon.installation_id, keys, marks, ends)
        while newest is not None and (page := await self._archive.seals(walk.number, newest.number, _PAGE)):
            for run in walk.checked(page):
                await self._check_events(run, walk)
            progress(Progress(walk.number, newest.number, report.events))
        walk.check_marks(anchored)
        await self._check_unsealed(walk, newest, horizon)
        return report

    async def _segment_ends(
        self, report: VerificationReport, newest: EventSeal | None, horizon: Horizon
    ) -> dict[int, int | None]:
        """Where each segment ends; None: nowhere yet."""
        starts = await self._archive.segment_starts(_MOST_SEGMENTS)
        if len(starts) == _MOST_SEGMENTS:
            report.note(Finding("there are more segments than a database is ever restored"))
        ends = segments(starts)
        # Restored into another cluster, and nothing sealed there yet: what comes now is the next segment's.
        if newest is not None and (newest.cluster_id != horizon.cluster_id or newest.upto_xid == LAST_XID):
            ends[newest.after_id] = newest.upto_id
        return ends

    async def _check_events(self, run: Sequence[EventSeal], walk: "_Walk") -> None:
        """Compares the events of seals that follow one another in one segment, in one reading."""
        first, last = run[0], run[-1]
        wanted = EventRange(
            after_id=first.after_id,
            until_id=walk.ends.get(first.after_id),
            from_xid=first.from_xid,
            upto_xid=last.upto_xid,
        )
        at, digest = 0, _SealedEvents(walk.sealed_before(first))
        async with aclosing(self._archive.events(wanted)) as pages:
            async for page in pages:
                for event in page:
                    while event.xid >= run[at].upto_xid:
                        walk.compare(run[at], digest)
                        at, digest = at + 1, _SealedEvents(run[at].sealed_at)
                    digest.add(event)
        for seal in run[at:]:
            walk.compare(seal, digest)
            digest = _SealedEvents(seal.sealed_at)

    async def _check_unsealed(self, walk: "_Walk", newest: EventSeal | None, horizon: Horizon) -> None:
        is_elsewhere = newest is not None and newest.cluster_id != horizon.cluster_id
        if newest is None:
            after_id, from_xid = 0, 0
        elif newest.upto_xid == LAST_XID:
            after_id, from_xid = newest.upto_id, 0
        else:
            after_id, from_xid = newest.after_id, newest.upto_xid
        since_id = newest.upto_id if newest is not None and is_elsewhere else _GREATEST_ID
        report = walk.report
        report.unsealed = await self._archive.unsealed(after_id, from_xid, since_id)
        if report.unsealed.foreign and not is_elsewhere and newest is not None:
            report.note(
                Finding(f"{_events(report.unsealed.foreign)} of transactions that have not begun: put in by hand")
            )
        closed = [
            Segment(after_id=start, until_id=end, upto_xid=walk.upto_xid.get(start, 0))
            for start, end in walk.ends.items()
            if end is not None and start != after_id
        ]
        outside = await self._archive.outside(
            [*closed, Segment(after_id=after_id, until_id=_GREATEST_ID, upto_xid=LAST_XID)]
        )
        if outside:
            report.note(Finding(f"{_events(outside)} that no seal can cover: put in by hand"))


class _SealedEvents(EventDigest):
    """The events that are there of one seal, and their times. `before`: when the seal before was made."""

    def __init__(self, before: int | None) -> None:
        super().__init__()
        self._before = before
        self.late = 0
        self.newest_at: int | None = None

    def add(self, event: SealedEvent) -> None:
        super().add(event)
        at = event.at
        self.late += self._before is not None and at < self._before
        if self.newest_at is None or at > self.newest_at:
            self.newest_at = at


class _Walk:
    """The chain, seal by seal, in the order of numbers."""

    def __init__(
        self,
        report: VerificationReport,
        installation_id: UUID,
        keys: Mapping[int, bytes],
        marks: Sequence[SealMark],
        ends: dict[int, int | None],
    ) -> None:
        self.report = report
        self.ends = ends
        self.upto_xid: dict[int, int] = {}
        """How far the seals of each segment go."""
        self.number = 0
        self._installation_id = installation_id
        self._keys = keys
        self._marks = marks
        self._found: dict[int, bytes] = {}
        self._before: EventSeal | None = None
        self._since: dict[int, int | None] = {}  # when the one before was made, of the seals being checked

    def checked(self, seals: Sequence[EventSeal]) -> Iterator[list[EventSeal]]:
        """Checks each seal by itself and against the one before; runs of them that follow one another."""
        run: list[EventSeal] = []
        self._since.clear()
        for seal in seals:
            follows = self._check(seal)
            if run and not (follows and seal.after_id == run[0].after_id):
                yield run
                run = []
            run.append(seal)
        yield run

    def _check(self, seal: EventSeal) -> bool:
        """Whether it follows on the one before."""
        before, self._before = self._before, seal
        self._since[seal.number] = before.sealed_at if before else None
        gap, self.number = seal.number - self.number - 1, seal.number
        self.upto_xid[seal.after_id] = seal.upto_xid
        if any(mark.number == seal.number for mark in self._marks):
            self._found[seal.number] = seal.sha256
        if gap:
            first, last = seal.number - gap, seal.number - 1
            missing = f"seal {last} is" if gap == 1 else f"seals {first} to {last} are"
            self._note(f"{missing} missing before this one", seal)
        else:
            previous = before.sha256 if before else NO_SEAL
            if seal_sha256(seal, self._installation_id, previous) != seal.sha256:
                self._note("the seal is not what was made after the one before: one of them was altered", seal)
            if not contiguous(before, seal):
                self._note("the seal does not begin where the one before ends", seal)
        self._check_signature(seal)
        self.report.seals += 1
        return not gap and before is not None and contiguous(before, seal)

    def _check_signature(self, seal: EventSeal) -> None:
        key = self._keys.get(seal.key_version)
        if key is None:
            self._note("Vault has no public key of the version that is said to have signed the seal", seal)
            return
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(seal.signature, seal.sha256)
        except (InvalidSignature, ValueError):
            self._note("the signature is not that of Vault's key", seal)

    def sealed_before(self, seal: EventSeal) -> int | None:
        """When the seal before was made, of one of those being checked."""
        return self._since.get(seal.number)

    def compare(self, seal: EventSeal, digest: _SealedEvents) -> None:
        """Compares a seal with the events that are there."""
        self.report.events += digest.count
        self.report.late += digest.late
        self.report.late_seal = self.report.late_seal or (seal.number if digest.late else None)
        if digest.count < seal.events:
            self._note(f"{_events(seal.events - digest.count)} fewer than were sealed", seal)
        elif digest.count > seal.events:
            self._note(f"{_events(digest.count - seal.events)} more than were sealed", seal)
        elif digest.digest() != seal.events_sha256:
            self._note("events are not as they were sealed", seal)
        elif digest.newest_at is not None and digest.newest_at > seal.sealed_at + _CLOCK_STEP:
            self._note("events have a time that is later than their seal's: put in by hand, or a clock was wrong", seal)

    def check_marks(self, anchored: Anchored) -> None:
        """Whether the chain has what Vault, or somebody else, noted of it."""
        if anchored.malformed:
            self.report.note(Finding("what is anchored in Vault is no seal's number and hash: it was written over"))
        elif anchored.mark is None and self.report.newest is not None:
            self.report.note(Finding("no seal is anchored in Vault, so that nothing tells whether the end was cut off"))
        for mark in self._marks:
            whose = "anchored in Vault" if mark is anchored.mark else "expected"
            if mark.number not in self._found:
                where = ", whose end is missing" if mark.number > self.number else ""
                self.report.note(Finding(f"the seal {whose} is not in the chain{where}", mark.number))
            elif self._found[mark.number] != mark.sha256:
                self.report.note(Finding(f"the seal is not the one {whose}: it was replaced", mark.number))

    def _note(self, problem: str, seal: EventSeal) -> None:
        since = None if (before := self._since.get(seal.number)) is None else time_of(before)
        self.report.note(Finding(problem, seal.number, since, time_of(seal.sealed_at)))


def _wrong_with(table: EventTable) -> str | None:
    if not table.is_plain:
        return "is not what a migration makes: another kind of table or a view, in another schema, or below another"
    if table.has_policies:
        return "has row-level security: policies choose who is shown what"
    return "has rules, which put other statements in the place of those that are sent" if table.has_rules else None


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
