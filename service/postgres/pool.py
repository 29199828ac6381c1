"""The pool of connections to Postgres, and the one place where asyncpg's errors become ours."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, cast

import asyncpg

from service import tracing
from service.errors import ConfigurationError, CredentialsError, DatabaseNotReady, DatabaseUnavailable
from service.measures import Measures
from service.modules.ports import CallerConnection
from service.postgres.queries import SQL
from service.settings import Settings

_NOT_READY = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedObjectError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidAuthorizationSpecificationError,
)

_AUTHORISE = SQL["authorise_opens"]
"""The statement before every opening: it is timed by itself."""

AS_WRITTEN = {"search_path": "pg_catalog", "row_security": "off"}
"""The statements mean what they say: no function of a table's owner takes the place of Postgres' own, and where a
policy would keep rows back or show others, the statement fails. What a client asks for comes before what ALTER DATABASE
and ALTER ROLE set. https://www.postgresql.org/docs/current/config-setting.html
"""


async def _as_it_is(_conn: object) -> None:
    """Resets nothing: `queries.sql` sets nothing beyond a transaction, and asyncpg itself ends those that are open.

    Its usual reset is a second round trip after each statement, half of what a short one costs.
    """


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns whatever asyncpg and the socket raise into `errors.py`'s. Our own errors pass.

    The cause is cut off: a driver's message can quote a row.
    """
    try:
        yield
    except CredentialsError:
        raise
    except asyncpg.UniqueViolationError:
        raise  # a fact about the data, which the statement's caller knows how to read
    except asyncpg.ClientConfigurationError:  # found when the first connection is wanted
        raise ConfigurationError("DATABASE_URL: not a PostgreSQL URL") from None
    except _NOT_READY:
        raise DatabaseNotReady from None
    except OverflowError:
        raise DatabaseUnavailable("A row in Postgres holds a value that can't be read") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError):
        raise DatabaseUnavailable(retry_after=2) from None


class Database:
    """Connections as the runtime's role, opened when first needed, and transactions on them.

    Guarantees: every wait is bounded by `database_timeout`. Does not: try anything twice.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", timeout: float, measures: Measures | None = None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._measures = measures or Measures()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, measures: Measures | None = None) -> AsyncIterator[Self]:
        """Opens the pool; no connection is made until one is needed. `measures`: where statements are counted.

        Raises:
            ConfigurationError: DATABASE_URL is not a URL that asyncpg understands.
        """
        try:
            pool = asyncpg.create_pool(
                settings.database_url.get_secret_value(),
                min_size=0,
                max_size=settings.database_pool_size,
                timeout=settings.database_timeout,
                command_timeout=settings.database_timeout,
                server_settings={"application_name": "vault-credentials", **AS_WRITTEN},
                reset=_as_it_is,
            )
            await pool
        except (ValueError, asyncpg.InterfaceError):
            raise ConfigurationError("DATABASE_URL: not a PostgreSQL URL") from None
        try:
            yield cls(pool, settings.database_timeout, measures)
        finally:
            try:
                await asyncio.wait_for(pool.close(), settings.database_timeout)
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[CallerConnection]:
        """One connection, not in a transaction."""
        try:
            with translated_errors():
                # Not by acquire's own timeout, which costs a task and two turns of the loop each time.
                async with asyncio.timeout(self._timeout):
                    conn = await self._pool.acquire()
                try:
                    yield cast(CallerConnection, conn)
                finally:
                    await self._pool.release(conn, timeout=self._timeout)
        except DatabaseUnavailable:
            self._measures.postgres_failures.add(())
            raise

    @property
    def connections(self) -> dict[str, int]:
        """How many there are at this moment, by what they do."""
        idle = self._pool.get_idle_size()
        return {"idle": idle, "used": self._pool.get_size() - idle}

    @asynccontextmanager
    async def transaction(self, conn: CallerConnection | None = None) -> AsyncIterator[CallerConnection]:
        """A transaction: on the caller's connection (a savepoint if it is in one already), or on one of the pool's."""
        if conn is not None:
            with translated_errors():
                async with conn.transaction():
                    yield conn
            return
        async with self.connection() as own, own.transaction():
            yield own

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Runs one statement, committed."""
        began = time.perf_counter()
        name = "authorise_opens" if query is _AUTHORISE else "other"
        with tracing.span(f"postgres {name}"):
            async with self.connection() as conn:
                rows = await conn.fetch(query, *args)
        self._measures.statement_ended(name, began)
        return rows

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """Runs one statement, committed; its first row or None."""
        began = time.perf_counter()
        async with self.connection() as conn:
            row = await conn.fetchrow(query, *args)
        self._measures.statement_ended("other", began)
        return row

    async def execute(self, query: str, *args: Any) -> None:
        """Runs one statement, committed."""
        began = time.perf_counter()
        async with self.connection() as conn:
            await conn.execute(query, *args)
        self._measures.statement_ended("other", began)
