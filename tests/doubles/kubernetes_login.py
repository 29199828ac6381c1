"""A Vault with the Kubernetes auth method, for a Vault that was built without it: its login, and the rest passed on.

The login is as documented (https://developer.hashicorp.com/vault/api-docs/auth/kubernetes#login); the token it gives is
a real one of the Vault behind.
"""

from collections.abc import Callable

import aiohttp
from aiohttp import web

from tests.doubles.scripted_server import ScriptedServer


class KubernetesLogin(ScriptedServer):
    """Takes the service accounts' tokens that tests make known to it."""

    def __init__(self, vault_address: str, mint: Callable[[], str], mount: str = "kubernetes") -> None:
        super().__init__()
        self._vault = vault_address
        self._mint = mint
        self._path = f"/v1/auth/{mount}/login"
        self.accepted: set[tuple[str, str]] = set()
        """Role and service account token."""

    async def usual(self, request: web.Request) -> web.StreamResponse:
        if request.path == self._path:
            given = await request.json()
            if (given.get("role"), given.get("jwt")) not in self.accepted:
                return web.json_response({"errors": ["permission denied"]}, status=403)
            auth = {"client_token": self._mint(), "lease_duration": 3600, "renewable": True}
            return web.json_response({"auth": auth})
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, self._vault + request.path_qs, headers=headers, data=await request.read()
            ) as answer,
        ):
            body = await answer.read()
            return web.Response(status=answer.status, body=body, content_type=answer.content_type)
