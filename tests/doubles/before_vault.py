"""What stands before the real Vault, a load balancer say: it may meddle with requests to decrypt."""

import aiohttp
from aiohttp import web

from tests.doubles.scripted_server import Answer, ScriptedServer

DECRYPT = "/v1/transit/decrypt/"


class BeforeVault(ScriptedServer):
    """Passes on what it gets. A request to decrypt is answered by `fault` instead, or loses the header `dropped`."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.fault: Answer | None = None
        self.dropped = ""
        self.decryptions = 0

    async def usual(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower().startswith("x-")}
        if request.path.startswith(DECRYPT):
            self.decryptions += 1
            headers.pop(self.dropped, None)
            if self.fault is not None:
                return await self.fault(request)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, self._address + request.path_qs, data=await request.read(), headers=headers
            ) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")
