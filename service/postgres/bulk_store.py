"""`CredentialStore` for whoever stores many: what is asked for at the same time is one statement."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from service.errors import ConcurrentUpdate, DatabaseNotReady, WriteInterrupted
from service.modules.coalescer import BatchLimits, Coalescer
from service.modules.ports import CallerConnection
from service.modules.records import Credential, Event, IdempotencyRecord, WriteIntent
from service.postgres.credential_store import PostgresCredentialStore, deleted_among
from service.postgres.pool import Database
from service.postgres.queries import SQL
from service.postgres.rows import credential_from
from service.settings import Settings

_PROBLEMS: dict[str, Callable[[], Exception]] = {
    "interrupted": WriteInterrupted,
    "no_floor": DatabaseNotReady,
    "conflict": ConcurrentUpdate,
}


@dataclass(frozen=True, slots=True)
class _Insertion:
    credential: Credential
    intent: WriteIntent
    event: Event
    created_at: datetime | None


class _WereDeleted(Exception):
    """Rolls a transaction back in which credentials were inserted whose ids others had. Never leaves this module."""

    def __init__(self, ids: set[UUID]) -> None:
        super().__init__()
        self.ids = ids


class BulkCredentialStore(PostgresCredentialStore):
    """As its base. Guarantees too: of those that are inserted together each is, or isn't, by itself, as with its base.

    Does not: gather what has a connection or an Idempotency-Key of its own. Belongs to one event loop.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__(database, settings)
        limits = BatchLimits(items=settings.batch_items, under_way=1, waiting=settings.max_waiting)
        self._intents = Coalescer[WriteIntent, None](self._begin_each, limits, name="intents")
        self._insertions = Coalescer[_Insertion, Credential | None](self._insert_each, limits, name="insertions")

    async def begin_write(self, intent: WriteIntent) -> None:
        await self._intents.call(intent, group="")

    async def insert(
        self,
        credential: Credential,
        intent: WriteIntent,
        event: Event,
        *,
        idempotency: IdempotencyRecord | None = None,
        conn: CallerConnection | None = None,
        created_at: datetime | None = None,
    ) -> Credential | None:
        if idempotency is not None or conn is not None:
            return await super().insert(
                credential, intent, event, idempotency=idempotency, conn=conn, created_at=created_at
            )
        return await self._insertions.call(_Insertion(credential, intent, event, created_at), group="")

    async def aclose(self) -> None:
        """Ends the statements under way."""
        await self._intents.aclose()
        await self._insertions.aclose()

    async def _begin_each(self, intents: list[WriteIntent]) -> Sequence[None]:
        await self._database.execute(
            SQL["insert_intents"],
            [intent.id for intent in intents],
            [intent.credential_id for intent in intents],
            [intent.kv_path for intent in intents],
            [intent.kv_version for intent in intents],
            float(self._intent_age),
        )
        if given := [intent for intent in intents if intent.id_was_given]:
            await self._database.execute(
                SQL["wait_for_intents"], [intent.kv_path for intent in given], [intent.id for intent in given]
            )
        return [None] * len(intents)

    async def _insert_each(self, wanted: list[_Insertion]) -> Sequence[Credential | Exception | None]:
        deleted: set[UUID] = set()
        while True:
            left = [each for each in wanted if each.credential.id not in deleted]
            try:
                inserted = iter(await self._inserted(left) if left else ())
            except _WereDeleted as found:
                deleted |= found.ids
                continue
            return [ConcurrentUpdate() if each.credential.id in deleted else next(inserted) for each in wanted]

    async def _inserted(self, wanted: list[_Insertion]) -> Sequence[Credential | Exception | None]:
        columns = zip(*(_arguments(each) for each in wanted), strict=True)
        given = {each.credential.id for each in wanted if each.intent.id_was_given}
        async with self._database.transaction() as transaction:
            rows = await transaction.fetch(SQL["insert_credentials"], *(list(column) for column in columns))
            if given and (found := await deleted_among(transaction, list(given))):
                raise _WereDeleted(found)
        return [_result(row) for row in rows]


def _result(row: Any) -> Credential | Exception | None:
    problem = row["problem"]
    if problem is None:
        return credential_from(row)
    return None if problem == "below_floor" else _PROBLEMS[problem]()


def _arguments(each: _Insertion) -> tuple[object, ...]:
    credential, reference, event = each.credential, each.credential.reference, each.event
    return (
        credential.id,
        credential.user_id,
        credential.account_id,
        credential.credential_type,
        reference.transit_mount,
        reference.transit_key,
        reference.transit_key_version,
        reference.binding,
        reference.kv_mount,
        reference.kv_path,
        reference.kv_version,
        reference.secret_version,
        credential.validation_state,
        credential.account_type,
        credential.last_validated_at,
        credential.is_active,
        each.created_at,
        each.intent.id,
        event.access.user_id,
        event.access.actor,
        event.action.value,
        event.outcome.value,
        event.access.request_id,
    )
