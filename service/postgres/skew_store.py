"""What finding and mending skew need of Postgres."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from service.modules.records import Action, Credential
from service.modules.skew_ports import CopiesMade, KeyUse, Repin
from service.postgres.pool import Database
from service.postgres.queries import SQL
from service.postgres.rows import credential_from
from service.settings import Settings

_COPYING = (Action.REWRAP, Action.RECONCILE)
_LAST_PINNINGS = 100


class PostgresSkewStore:
    """`SkewStore` on Postgres.

    Guarantees: a row that has changed since it was read is not moved. Does not: lock what it reads.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._previous_hours = settings.previous_secret_hours

    async def installation_id(self) -> UUID | None:
        row = await self._database.fetchrow(SQL["installation_id"])
        return None if row is None else row["id"]

    async def key_uses(self, keys: Sequence[str]) -> list[KeyUse]:
        return [KeyUse(**dict(row)) for row in await self._database.fetch(SQL["key_uses"], list(keys))]

    async def above(self, key: str, version: int, *, count: int, first: int) -> tuple[int, list[UUID]]:
        counted = await self._database.fetchrow(SQL["count_above"], key, version, count)
        rows = await self._database.fetch(SQL["first_above"], key, version, first)
        return int(counted[0]), [row["id"] for row in rows]

    async def pinned_before(
        self, key: str, made: Mapping[int, datetime], *, count: int, first: int
    ) -> tuple[int, list[UUID]]:
        found = await self._database.fetchrow(
            SQL["pinned_before_made"], key, list(made), list(made.values()), count, first
        )
        return int(found["many"]), list(found["first_ids"] or ())

    async def newest_pins(self, limit: int) -> list[Credential]:
        return [credential_from(row) for row in await self._database.fetch(SQL["newest_pins"], limit)]

    async def newest_pins_of(self, key: str, limit: int) -> list[Credential]:
        return [credential_from(row) for row in await self._database.fetch(SQL["newest_pins_of"], key, limit)]

    async def page_all(self, after: UUID | None, limit: int) -> list[Credential]:
        return [credential_from(row) for row in await self._database.fetch(SQL["page_all_credentials"], after, limit)]

    async def find(self, credential_ids: Sequence[UUID]) -> list[Credential]:
        rows = await self._database.fetch(SQL["find_credentials"], list(credential_ids))
        return [credential_from(row) for row in rows]

    async def intended(self, kv_paths: Sequence[str]) -> Mapping[str, set[int]]:
        found: defaultdict[str, set[int]] = defaultdict(set)
        for row in await self._database.fetch(SQL["intended_versions"], list(kv_paths)):
            found[row["kv_path"]].add(row["kv_version"])
        return found

    async def copies_made(self, credential_id: UUID) -> CopiesMade:
        async with self._database.transaction() as conn:
            await conn.execute(SQL["become_auditor"])
            rows = await conn.fetch(SQL["last_pinnings"], credential_id, _LAST_PINNINGS)
        is_copy = [row["action"] in _COPYING for row in rows]
        written = [number for number, copied in enumerate(is_copy) if not copied]
        present, kept = (written + [len(is_copy)] * 2)[:2]
        return CopiesMade(present=any(is_copy[:present]), kept=any(is_copy[:kept]))

    async def repin(self, repin: Repin, *, actor: str) -> Credential | None:
        before, previous = repin.before, repin.previous
        row = await self._database.fetchrow(
            SQL["repin"],
            before.id,
            before.row_version,
            before.reference.kv_version,
            before.reference.secret_version,
            repin.kv_version,
            repin.secret_version,
            repin.transit_key_version,
            previous.kv_version if previous else None,
            previous.secret_version if previous else None,
            previous.transit_key_version if previous else None,
            list(repin.discarded),
            self._previous_hours,
            repin.previous_expires_at,
            actor,
            repin.batch_id,
        )
        return None if row is None else credential_from(row)
