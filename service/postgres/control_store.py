"""The controls' tables: suspensions, suspects, and the question who is cut off by now."""

from collections.abc import Sequence
from uuid import UUID

from service.errors import ConcurrentUpdate, CredentialDenied, SuspensionNotFound
from service.modules.control_ports import Suspendable
from service.modules.records import Action, Credential, Cursor, OwnerAccess, Suspension, SuspensionAccess
from service.postgres.access_log import DENIALS
from service.postgres.pool import Database
from service.postgres.queries import SQL
from service.postgres.rows import suspension_from

_TRIES = 5


class PostgresControlStore:
    """`ControlStore` on Postgres.

    Guarantees: each change is one statement, with its event in it; what is committed when `suspend` returns denies
    every open that is asked for after that. Does not: end what is under way.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def suspend(self, access: SuspensionAccess, whom: Suspendable, reason: str | None) -> Suspension:
        for _ in range(_TRIES):
            row = await self._database.fetchrow(
                SQL["suspend"],
                whom.user_id,
                whom.account_id,
                reason,
                access.actor,
                Action.SUSPEND.value,
                access.request_id,
            )
            if row is None:
                row = await self._database.fetchrow(SQL["find_suspension"], whom.user_id, whom.account_id)
            if row is not None:
                return suspension_from(row)
        raise ConcurrentUpdate  # lifted between the two, again and again

    async def resume(self, access: SuspensionAccess, whom: Suspendable) -> None:
        lifted = await self._database.fetchrow(
            SQL["resume"], whom.user_id, whom.account_id, access.actor, Action.RESUME.value, access.request_id
        )
        if lifted is None:
            raise SuspensionNotFound

    async def suspension(self, whom: Suspendable) -> Suspension:
        row = await self._database.fetchrow(SQL["find_suspension"], whom.user_id, whom.account_id)
        if row is None:
            raise SuspensionNotFound
        return suspension_from(row)

    async def suspensions(self, after: Cursor | None, limit: int) -> list[Suspension]:
        rows = await self._database.fetch(
            SQL["page_suspensions"], after.at if after else None, after.id if after else None, limit
        )
        return [suspension_from(row) for row in rows]

    async def count_suspended(self, whom: Sequence[Suspendable]) -> list[int]:
        rows = await self._database.fetch(
            SQL["count_suspended"], [each.user_id for each in whom], [each.account_id for each in whom]
        )
        return [row["credentials"] for row in rows]

    async def cut_off(self, uses: Sequence[tuple[str, UUID]]) -> list[CredentialDenied | None]:
        rows = await self._database.fetch(
            SQL["cut_off"], [user_id for user_id, _ in uses], [credential_id for _, credential_id in uses]
        )
        return [None if row["denial"] is None else DENIALS[row["denial"]]() for row in rows]

    async def note_refused(self, access: OwnerAccess, credential: Credential) -> None:
        await self._database.execute(SQL["note_refused"], *_noted(access, credential, Action.SUSPECT))

    async def note_accepted(self, access: OwnerAccess, credential: Credential) -> None:
        await self._database.execute(SQL["note_accepted"], *_noted(access, credential, Action.CLEAR))

    async def disable_suspects(self, *, seconds: float, at_once: int) -> list[UUID]:
        rows = await self._database.fetch(SQL["disable_suspects"], seconds, at_once, Action.DISABLE.value)
        return [row["id"] for row in rows]


def _noted(access: OwnerAccess, credential: Credential, action: Action) -> tuple[object, ...]:
    return (
        credential.id,
        credential.secret_version,
        access.user_id,
        access.actor,
        action.value,
        access.request_id,
    )
