"""Authorise and record: the one statement that stands before every decryption, and the history it leaves."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from service.errors import (
    AccountTypeRefused,
    ConnectionBusy,
    CredentialDenied,
    CredentialInactive,
    CredentialNotFound,
    CredentialsError,
    Suspended,
    WrongCredentialType,
)
from service.measures import Tally
from service.modules.ports import CallerConnection
from service.modules.records import (
    Action,
    Credential,
    Cursor,
    Event,
    EventFilter,
    OpenRequest,
    Outcome,
    OwnerAccess,
    ReadAccess,
    RecordedEvent,
)
from service.postgres.pool import Database, translated_errors
from service.postgres.queries import SQL
from service.postgres.rows import credential_from, event_from

# not_owner is not_found to the caller (invariant 9), in the metrics too; the event keeps the difference for auditors.
DENIALS: dict[str, type[CredentialDenied]] = {
    "not_found": CredentialNotFound,
    "not_owner": CredentialNotFound,
    "wrong_type": WrongCredentialType,
    "inactive": CredentialInactive,
    "suspended": Suspended,
    "account_type": AccountTypeRefused,
}

COUNTED_DENIALS = frozenset(DENIALS) - {"not_owner"}
"""What denials are counted as: whoever can read the metrics may be the one who was denied."""

_USES = frozenset({Action.OPEN, Action.HAND_OFF, Action.PROXY, Action.TRADE})
"""What the paper/live guard is about: by a validation the type becomes known, and a reseal hands out nothing."""


class PostgresAccessLog:
    """`AccessLog` and `HandOffLog` on Postgres.

    Guarantees: what `authorise_opens` grants has an event, committed before it returns. Does not: say whether the
    decryption that followed worked; that is a further event.
    """

    def __init__(
        self, database: Database, account_typed: Collection[str] = ("alpaca",), *, uses: Tally | None = None
    ) -> None:
        """`account_typed`: the credential types whose accounts are paper or live. `uses` counts what is asked for, by
        action, outcome and reason.
        """
        self._database = database
        self._uses = uses if uses is not None else Tally()
        self._account_typed = sorted(account_typed)

    async def authorise_opens(
        self, requests: Sequence[OpenRequest], *, batch_id: UUID, conn: CallerConnection | None = None
    ) -> list[Credential | Exception]:
        try:
            rows = await self._authorised(requests, batch_id, conn)
        except ConnectionBusy:
            raise  # asked for again over our own pool
        except CredentialsError:
            for request in requests:
                self._uses.add((request.action.value, "failed", "unrecorded"))
            raise
        # Counted together: a batch's are nearly always of one kind or two.
        for (action, denial), count in Counter(
            [(request.action, row["denial"]) for request, row in zip(requests, rows, strict=True)]
        ).items():
            self._uses.add(
                (action.value, "granted", "")
                if denial is None
                else (action.value, "denied", denial if denial in COUNTED_DENIALS else "not_found"),
                count,
            )
        return [credential_from(row) if row["denial"] is None else DENIALS[row["denial"]]() for row in rows]

    async def _authorised(
        self, requests: Sequence[OpenRequest], batch_id: UUID, conn: CallerConnection | None
    ) -> Sequence[Any]:
        arguments = (
            [request.credential_id for request in requests],
            [request.access.user_id for request in requests],
            [request.credential_type for request in requests],
            [request.allow_inactive for request in requests],
            [request.access.actor for request in requests],
            [request.access.request_id for request in requests],
            [request.action.value for request in requests],
            batch_id,
            [request.access.account_type if request.action in _USES else None for request in requests],
            self._account_typed,
        )
        if conn is not None and not conn.is_in_transaction():
            with translated_errors():
                try:
                    return await conn.fetch(SQL["authorise_opens"], *arguments)
                except asyncpg.InterfaceError:
                    raise ConnectionBusy from None
        # In the caller's transaction a rollback would take the record with it: over our own pool instead.
        return await self._database.fetch(SQL["authorise_opens"], *arguments)

    async def record(self, events: Sequence[Event]) -> None:
        for event in events:
            self._uses.add((event.action.value, event.outcome.value, event.reason or ""))
        async with self._database.connection() as conn:
            await conn.executemany(SQL["record_event"], [event_arguments(event) for event in events])

    async def record_denied(self, access: OwnerAccess, credential_id: UUID | None, action: Action) -> None:
        self._uses.add((action.value, "denied", "not_found"))
        await self._database.execute(
            SQL["record_denied"], credential_id, access.user_id, access.actor, action.value, access.request_id
        )

    async def record_unwrap_failure(
        self, access: OwnerAccess, credential_id: UUID, handoff_id: UUID, reason: str
    ) -> bool:
        async with self._database.transaction() as conn:
            await conn.execute(SQL["become_auditor"])
            granted = await conn.fetchrow(
                SQL["find_handoff"], credential_id, handoff_id, access.user_id, access.actor, reason
            )
        if granted is None:
            return False
        if not granted["reported"]:
            event = Event(
                access=access,
                credential_id=credential_id,
                account_id=granted["account_id"],
                owner=granted["user_id"],
                action=Action.HAND_OFF,
                outcome=Outcome.FAILED,
                reason=reason,
                transit_key=granted["transit_key"],
                transit_key_version=granted["transit_key_version"],
                batch_id=handoff_id,
            )
            await self.record([event])
        return True

    async def page(
        self, access: ReadAccess, wanted: EventFilter, after: Cursor | None, limit: int
    ) -> list[RecordedEvent]:
        owner = access.user_id if isinstance(access, OwnerAccess) else None
        async with self._database.transaction() as conn:
            await conn.execute(SQL["become_auditor"])
            rows = await conn.fetch(
                SQL["page_events"],
                owner,
                wanted.credential_id,
                wanted.user_id,
                wanted.actor,
                wanted.action,
                wanted.outcome,
                wanted.since,
                wanted.until,
                after.at if after else None,
                after.id if after else None,
                limit,
            )
        return [event_from(row) for row in rows]


def event_arguments(event: Event) -> tuple[object, ...]:
    """The arguments of `record_event`."""
    return (
        event.credential_id,
        event.owner or event.access.user_id,
        event.account_id,
        event.access.user_id,
        event.access.actor,
        event.action.value,
        event.outcome.value,
        event.reason,
        event.transit_key,
        event.transit_key_version,
        event.batch_id,
        event.access.request_id,
    )
