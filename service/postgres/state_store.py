"""What the metrics tell of the tables: numbers, and nothing that names anybody."""

from service.modules.state_watch import StateCounts
from service.postgres.pool import Database
from service.postgres.queries import SQL


class PostgresStateStore:
    """`StateStore` on Postgres, as the runtime's role."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def counts(self) -> StateCounts:
        return StateCounts(**dict(await self._database.fetchrow(SQL["state_counts"])))
