"""Sealing the events that were recorded since the last seal. Nothing waits for it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from uuid import UUID

from service.correlation import start_alone
from service.errors import CasMismatch, InstallationMismatch
from service.exception_location import exception_location
from service.modules.event_chain import (
    LAST_XID,
    NO_SEAL,
    EventDigest,
    EventRange,
    EventSeal,
    SealMark,
    SealSkew,
    microseconds,
    seal_skew,
)
from service.modules.event_ports import EventSigner, Horizon, SealAnchor, SealStore

_log = logging.getLogger(__name__)
_MOST_EVENTS = 20_000


class EventSealer:
    """Makes seals, one after the other, and anchors the newest one in Vault.

    Guarantees: a seal covers every event of the transactions it names, those that committed late too; it is committed
    before it is anchored; the anchor only moves along a chain that has the seal anchored before. Several may be at
    work: of each number there is one seal. Does not: seal an event while a transaction that began before its own is
    under way, nor vouch for what was done to events before they were sealed.
    """

    def __init__(
        self,
        store: SealStore,
        signer: EventSigner,
        anchor: SealAnchor,
        vault_installation: Callable[[], Awaitable[UUID | None]],
        *,
        most_events: int = _MOST_EVENTS,
    ) -> None:
        """`most_events`: a seal ends with the transaction in which it reaches so many."""
        self._store = store
        self._signer = signer
        self._anchor = anchor
        self._vault_installation = vault_installation
        self._most = most_events
        self._belongs = False
        self._anchored: SealMark | None = None
        self._trouble: str | None = None

    @asynccontextmanager
    async def running(self, interval: float) -> AsyncIterator[None]:
        """Seals every `interval` seconds for as long as the block lasts, whatever goes wrong meanwhile."""
        task = start_alone(self._loop(interval), "sealing")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _loop(self, interval: float) -> None:
        while True:
            try:
                await self.run()
            except Exception as error:  # noqa: BLE001 - one round's trouble, whatever it is, must not end all rounds
                # Once for each kind of trouble: a Vault that is sealed overnight is not thousands of lines.
                if self._is_news(type(error).__name__):
                    _log.warning("sealing events failed", extra={"exception": exception_location(error)})
            await asyncio.sleep(interval)

    def _is_news(self, trouble: str | None) -> bool:
        before, self._trouble = self._trouble, trouble
        return trouble != before

    async def run(self) -> int:
        """Seals all that could be sealed when its last seal was begun, and anchors it. Returns how many seals it made.

        What is recorded meanwhile is left to the next round: where events never cease, each seal would find some more.

        Raises:
            InstallationMismatch: Vault and Postgres do not belong together; nothing was signed.
        """
        made, is_more = 0, True
        while is_more:
            sealed, is_more = await self._seal()
            if sealed is not None:
                made += 1
                await self._move_anchor(sealed)
        await self._move_anchor(await self._store.newest_seal())
        return made

    async def _seal(self) -> tuple[SealMark | None, bool]:
        """One seal, and whether there was more to seal when it was begun; none where nothing is left, or somebody else
        has made it."""
        last, horizon = await self._store.newest(), await self._store.horizon()
        await self._ensure_same_installation(horizon)
        wanted = await self._next_range(last, horizon)
        if wanted is None:
            return None, False
        digest, upto_xid = await self._digest(wanted)
        if not digest.count:
            return None, False
        seal = EventSeal(
            number=last.number + 1 if last else 1,
            sealed_at=microseconds(horizon.at),
            cluster_id=horizon.cluster_id,
            after_id=wanted.after_id,
            upto_id=max(digest.greatest_id or 0, last.upto_id if last else 0),
            from_xid=wanted.from_xid,
            upto_xid=upto_xid,
            events=digest.count,
            events_sha256=digest.digest(),
        ).hashed(horizon.installation_id, last.sha256 if last else NO_SEAL)
        signature = await self._signer.sign(seal.sha256)
        if not await self._store.add(seal.signed(signature.key_version, signature.value)):
            return None, False
        return seal.mark, upto_xid != horizon.oldest_xid

    async def _ensure_same_installation(self, horizon: Horizon) -> None:
        if not self._belongs:
            if await self._vault_installation() != horizon.installation_id:
                raise InstallationMismatch
            self._belongs = True

    async def _digest(self, wanted: EventRange) -> tuple[EventDigest, int]:
        """Of the range's events, or of so many that it is enough; and the transaction that it goes up to."""
        digest, xid = EventDigest(), wanted.from_xid
        async with aclosing(self._store.events(wanted)) as pages:
            async for page in pages:
                for event in page:
                    # A segment's last seal can't be cut: what is left of it would be told from nothing else.
                    if digest.count >= self._most and event.xid != xid and wanted.upto_xid != LAST_XID:
                        return digest, event.xid
                    xid = event.xid
                    digest.add(event)
        return digest, wanted.upto_xid

    async def _next_range(self, last: EventSeal | None, horizon: Horizon) -> EventRange | None:
        """What the next seal may cover, as far as that is final; None: nothing is, yet."""
        if last is None:
            # Transactions that this cluster hasn't begun: the database came from another one, and was never sealed.
            until_id = await self._store.greatest_id(from_xid=horizon.next_xid, after_id=0)
            if until_id is not None:
                return EventRange(after_id=0, until_id=until_id, from_xid=0, upto_xid=LAST_XID)
            return EventRange(after_id=0, from_xid=0, upto_xid=horizon.oldest_xid)
        if last.upto_xid == LAST_XID:
            return _new_segment(last, horizon)
        if last.cluster_id != horizon.cluster_id:
            return await self._next_in_another_cluster(last, horizon)
        return _same_segment(last, horizon)

    async def _next_in_another_cluster(self, last: EventSeal, horizon: Horizon) -> EventRange | None:
        """The database was restored from a dump into another cluster, whose transactions have numbers of their own.

        What was restored is final. What has been recorded since has greater event numbers, as the sequence goes on.
        """
        below_id = None
        if horizon.next_xid > last.upto_xid:
            if horizon.oldest_xid < last.upto_xid:
                return None  # restored or recorded since? The numbers tell when the oldest transaction has ended
            below_id = await self._store.least_id(below_xid=last.upto_xid, after_id=last.upto_id)
        # Where nothing new has a number below the last seal's, restored is what this cluster hasn't come to yet.
        from_xid = last.upto_xid if below_id is not None else max(last.upto_xid, horizon.next_xid)
        until_id = await self._store.greatest_id(from_xid=from_xid, after_id=last.after_id, below_id=below_id)
        if until_id is None:
            is_above = below_id is None and horizon.oldest_xid >= last.upto_xid
            return _same_segment(last, horizon) if is_above else _new_segment(last, horizon)
        return EventRange(after_id=last.after_id, until_id=until_id, from_xid=last.upto_xid, upto_xid=LAST_XID)

    async def _move_anchor(self, newest: SealMark | None) -> None:
        if newest is None or newest == self._anchored:
            self._is_news(None)
            return
        present, version, malformed = await self._anchor.read()
        if malformed:  # as below: what it took the place of may have told of a seal that is gone
            if self._is_news(SealSkew.MALFORMED):
                _log.error("what is anchored in Vault is no seal")
            return
        if (skew := await seal_skew(self._store, present)) is not None:
            # Writing over it would hide that seals have gone. A person has to say that this is meant.
            if self._is_news(skew):
                _log.error("the chain of seals lacks the one anchored in Vault", extra={"skew": skew.value})
            return
        if present is None or present.number < newest.number:
            try:
                await self._anchor.write(newest, cas=version)
            except CasMismatch:
                # Another worker was faster, and the next round finds it anchored; or somebody has deleted it.
                if present is None and self._is_news("anchor"):
                    _log.warning("the newest seal could not be anchored in Vault")
                return
        self._anchored = newest  # or another worker has anchored a later one
        self._is_news(None)


def _same_segment(last: EventSeal, horizon: Horizon) -> EventRange:
    return EventRange(after_id=last.after_id, from_xid=last.upto_xid, upto_xid=horizon.oldest_xid)


def _new_segment(last: EventSeal, horizon: Horizon) -> EventRange:
    return EventRange(after_id=last.upto_id, from_xid=0, upto_xid=horizon.oldest_xid)
