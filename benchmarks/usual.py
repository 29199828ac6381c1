"""Contender: the usual service. hvac (synchronous) in the framework's thread pool, asyncpg, the ciphertext in the row.

Written as well as one would without coalescing: one shared `requests` session whose pool has room for every thread,
prepared statements (asyncpg keeps them), one connection for both statements, an event committed before decrypting.
"""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import hvac
import requests
from anyio import to_thread
from requests.adapters import HTTPAdapter

from benchmarks.contender import Opener, Terms
from benchmarks.loading import Loaded
from benchmarks.statements import USUAL

POOL_SIZE = 10
"""Connections to Postgres, for both alternatives: of 10, 20 and 40 the number that cost least; ours has 10 too."""

_THREADS = 40
"""anyio's own default, which is FastAPI's."""


@asynccontextmanager
async def authorised_rows(terms: Terms) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    """The pool that both alternatives authorise and record over."""
    async with asyncpg.create_pool(terms.database_url, min_size=POOL_SIZE, max_size=POOL_SIZE) as pool:
        yield pool


async def authorised(pool: "asyncpg.Pool[asyncpg.Record]", credential: Loaded) -> tuple[str, str]:
    """The ciphertext and its context, once the event is committed."""
    async with pool.acquire() as connection:
        row = await connection.fetchrow(USUAL["authorise"], credential.id, credential.user_id)
        if row is None:
            raise LookupError("no such credential")
        await connection.execute(USUAL["record"], credential.id, credential.user_id)
    return row["ciphertext"], row["context"]


def pair_from(plaintext: str) -> tuple[str, str]:
    """The two keys, from what transit answers."""
    pair = json.loads(base64.b64decode(plaintext))
    return pair["api_key"], pair["secret_key"]


@asynccontextmanager
async def opener(terms: Terms) -> AsyncIterator[Opener]:
    """SELECT, INSERT, then hvac's `decrypt_data` in a thread."""
    session = requests.Session()
    session.trust_env = False
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=_THREADS)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    client = hvac.Client(terms.vault_addr, token=terms.vault_token, session=session)

    def decrypt(ciphertext: str, context: str) -> tuple[str, str]:
        answer = client.secrets.transit.decrypt_data(
            terms.transit_key, ciphertext, context=context, mount_point=terms.transit_mount
        )
        return pair_from(answer["data"]["plaintext"])

    async with authorised_rows(terms) as pool:

        async def open_one(credential: Loaded) -> None:
            ciphertext, context = await authorised(pool, credential)
            _api_key, _secret_key = await to_thread.run_sync(decrypt, ciphertext, context)

        yield open_one
    session.close()
