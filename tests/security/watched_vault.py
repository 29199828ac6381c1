"""The real Vault behind a listener that sees each request first: for tests of what happened before it."""

from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

from tests.doubles.scripted_server import ScriptedServer

Watch = Callable[[str, str], Awaitable[None]]
"""Called with the path and the batch id, before the request goes on to Vault."""


class WatchedVault(ScriptedServer):
    """Passes every request on to Vault as it is, and Vault's answer back, after the watcher has seen it."""

    def __init__(self, address: str, watch: Watch) -> None:
        super().__init__()
        self._address = address
        self._watch = watch

    async def usual(self, request: web.Request) -> web.StreamResponse:
        await self._watch(request.path, request.headers.get("X-Credentials-Batch-Id", ""))
        headers = {name: value for name, value in request.headers.items() if name.lower().startswith("x-vault")}
        if batch := request.headers.get("X-Credentials-Batch-Id"):
            headers["X-Credentials-Batch-Id"] = batch
        body = await request.read()
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, self._address + request.path_qs, data=body, headers=headers) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")
