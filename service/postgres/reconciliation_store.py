"""What reconciliation needs of Postgres: intents past their time, held one by one by a row lock."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from service.modules.records import Credential, HeldIntent, WriteIntent
from service.postgres.pool import Database
from service.postgres.queries import SQL
from service.postgres.rows import credential_from, intent_from
from service.settings import Settings


class PostgresReconciliationStore:
    """`ReconciliationStore` on Postgres.

    Guarantees: while an intent is held, its writer can't commit, and the row's pins can't change. Does not: wait for
    a writer that is about to commit; its intent is passed by.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._previous_hours = settings.previous_secret_hours

    async def installation_id(self) -> UUID | None:
        row = await self._database.fetchrow(SQL["installation_id"])
        return None if row is None else row["id"]

    async def due_intents(self, limit: int) -> list[WriteIntent]:
        return [intent_from(row) for row in await self._database.fetch(SQL["due_intents"], limit)]

    @asynccontextmanager
    async def hold_intent(self, intent: WriteIntent, *, waits: bool = False) -> AsyncIterator[HeldIntent | None]:
        async with self._database.transaction() as transaction:
            hold = SQL["hold_own_intent"] if waits else SQL["hold_intent"]
            if await transaction.fetchrow(hold, intent.id) is None:
                yield None
                return
            held = await transaction.fetchrow(SQL["company_of_intent"], intent.id)
            row = await transaction.fetchrow(SQL["hold_credential"], intent.credential_id)
            credential = None if row is None else credential_from(row)
            yield HeldIntent(credential=credential, alone=held["alone"], shared=held["shared"])
            await transaction.execute(SQL["delete_intent"], intent.id)

    async def defer(self, intent: WriteIntent) -> None:
        await self._database.execute(SQL["defer_intent"], intent.id)

    async def expire_previous(self, limit: int) -> int:
        return len(await self._database.fetch(SQL["expire_previous"], limit, self._previous_hours))

    async def purge_idempotency(self) -> int:
        return len(await self._database.fetch(SQL["purge_idempotency"]))

    async def page_all(self, after: UUID | None, limit: int) -> list[Credential]:
        return [credential_from(row) for row in await self._database.fetch(SQL["page_all_credentials"], after, limit)]

    async def find(self, credential_ids: Sequence[UUID]) -> list[Credential]:
        rows = await self._database.fetch(SQL["find_credentials"], list(credential_ids))
        return [credential_from(row) for row in rows]

    async def open_intent_versions(self, kv_path: str) -> set[int | None]:
        return {row["kv_version"] for row in await self._database.fetch(SQL["intent_versions"], kv_path)}

    async def mark_broken(self, credential_ids: Sequence[UUID], broken: bool) -> None:
        await self._database.execute(SQL["mark_broken"], list(credential_ids), broken)
