"""Databases of a test's own, in the Postgres of the shared stack."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.support import Stack


def in_database(url: str, name: str) -> str:
    """The same server and login, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@asynccontextmanager
async def own_database(stack: Stack) -> AsyncIterator[str]:
    """A new, empty database's name; it is dropped when the block ends."""
    name = f"test_{secrets.token_hex(6)}"
    conn = await asyncpg.connect(stack.owner_url)
    try:
        await conn.execute(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await conn.close()
