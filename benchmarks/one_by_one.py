"""Contender: the usual service with asynchronous HTTP. aiohttp, one transit decrypt for each open.

aiohttp and not httpx, which is the slower of the two here by far (its own connection pool collapses with many callers).
On asyncio's own loop, as ours: uvloop took 15 % off this process's CPU time and made no difference to speak of, since
most of the time is Vault's.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from benchmarks.contender import Opener, Terms
from benchmarks.loading import Loaded
from benchmarks.usual import authorised, authorised_rows, pair_from

CONNECTIONS = 32
"""To Vault, kept open: of 16, 32 and 64 the number that did best."""


@asynccontextmanager
async def opener(terms: Terms) -> AsyncIterator[Opener]:
    """SELECT, INSERT, then a POST to transit, awaited."""
    path = f"/v1/{terms.transit_mount}/decrypt/{terms.transit_key}"
    async with (
        authorised_rows(terms) as pool,
        aiohttp.ClientSession(
            terms.vault_addr,
            headers={"X-Vault-Token": terms.vault_token, "X-Vault-Request": "true"},
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            raise_for_status=True,
        ) as session,
    ):

        async def open_one(credential: Loaded) -> None:
            ciphertext, context = await authorised(pool, credential)
            async with session.post(path, json={"ciphertext": ciphertext, "context": context}) as answer:
                _api_key, _secret_key = pair_from((await answer.json())["data"]["plaintext"])

        yield open_one
