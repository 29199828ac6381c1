"""What tests share: a stack to test against, a server in a thread, and secrets to look for."""

import asyncio
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from service.localstack import identity_tokens
from service.localstack.stack import LocalStack
from service.server import Server, config, tcp_socket
from service.settings import Settings


@dataclass(frozen=True)
class Stack:
    """A real Vault and a real Postgres, migrated and provisioned, as the local stack does it."""

    local: LocalStack

    @property
    def vault_addr(self) -> str:
        return self.local.vault.address

    @property
    def root_token(self) -> str:
        return self.local.vault.token

    @property
    def operator_token(self) -> str:
        return self.local.operator_token

    @property
    def minting_token(self) -> str:
        return (self.local.state_dir / "minting.token").read_text()

    @property
    def owner_url(self) -> str:
        return self.local.owner_database_url

    @property
    def runtime_url(self) -> str:
        return self.local.database_url

    @property
    def rotator_url(self) -> str:
        return self.local.rotator_database_url

    @property
    def role_id(self) -> str:
        return self.local.role_id

    @property
    def secret_id_file(self) -> Path:
        return self.local.secret_id_file

    @property
    def oidc_issuer(self) -> str:
        return self.local.oidc_issuer

    @property
    def installation_id(self) -> UUID:
        return self.local.installation_id

    def settings(self, **overrides: Any) -> Settings:
        """Settings of a service on this stack, by field name. It doesn't look at its state: other tests count."""
        return self.local.settings(**{"metrics_seconds": 0, **overrides})

    def mint(self, role: str = "user", subject: str = "alice") -> str:
        """A JWT from Vault's identity tokens."""
        with self.local.vault.admin() as admin:
            return identity_tokens.mint(admin, role, subject)

    def vault(self, method: str, path: str, json: Any = None, *, token: str | None = None) -> httpx.Response:
        """One request to Vault as root, or with another token. `path` is without `/v1/`."""
        with self.local.vault.admin() as admin:
            if token is None:
                return admin.raw(method, path, json)
            with admin.with_token(token) as other:
                return other.raw(method, path, json)

    def runtime_token(self) -> str:
        """A new Vault token of the service's own role."""
        return self._logged_in(self.role_id, self.secret_id_file)

    def rotator_token(self) -> str:
        """A new Vault token of the role that rotates, rewraps and retires."""
        return self._logged_in(self.local.rotator_role_id, self.local.rotator_secret_id_file)

    def _logged_in(self, role_id: str, secret_id_file: Path) -> str:
        login = {"role_id": role_id, "secret_id": secret_id_file.read_text()}
        answer = self.vault("POST", f"auth/{self.local.names.approle}/login", login)
        return str(answer.json()["auth"]["client_token"])


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The service behind a real socket, in a thread of its own; the block gets its URL."""
    from service.app import create_app

    listener = tcp_socket()
    listener.bind(("127.0.0.1", 0))
    ready = threading.Event()
    server = Server(config(create_app(settings)), ready.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), name="server")
    thread.start()
    try:
        while not ready.wait(0.05):
            assert thread.is_alive(), "the server did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def canary(prefix: str = "PK") -> str:
    """A random secret, of printable ASCII, that is found nowhere by accident."""
    return f"{prefix}{secrets.token_hex(20)}"


def findings(printed: str) -> dict[str, str]:
    """What the doctor found: `verdict detail` by name."""
    found = {}
    for line in printed.splitlines():
        verdict, rest = line.split(maxsplit=1)
        name, detail = rest.split(": ", 1)
        found[name] = f"{verdict} {detail}"
    return found
