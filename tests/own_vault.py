"""A real Vault of a test module's own, to seal, stop, kill and misconfigure, with a database of its own beside it."""

import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from service.localstack import provisioning
from service.localstack.policies import VaultNames
from service.localstack.state_dir import StateDir
from service.localstack.vault_binary import VaultSource, find_vault
from service.localstack.vault_server import RunningVault, running_vault
from service.postgres.migrate import installation_id, migrate
from service.settings import Settings, load_settings
from tests import containers
from tests.databases import in_database, own_database
from tests.support import Stack

NAMES = VaultNames()


def vault_source(backend: str) -> VaultSource:
    """The same kind of Vault as the shared stack's."""
    environment = containers.vault_environment() if backend == "containers" else dict(os.environ)
    return find_vault(environment, print)


class OwnVault:
    """Vault's process, and what the service needs to log in to it."""

    def __init__(self, folder: Path, source: VaultSource, installation: UUID, database_url: str) -> None:
        self._state = StateDir(folder)
        self._state.create()
        self._source = source
        self._running = ExitStack()
        self.installation_id = installation
        self.database_url = database_url
        self.vault: RunningVault
        self.start()
        with self.vault.admin() as admin:
            provisioning.ensure_audited(admin, self.vault.audit_path, print)
            provisioning.provision(admin, installation, NAMES)
            login = provisioning.runtime_login(admin, NAMES, None)
        self.role_id, self.secret_id = login.role_id, login.secret_id

    def start(self) -> None:
        """Starts it (again), unsealed, on the same port and storage."""
        self.vault = self._running.enter_context(running_vault(self._source, self._state, print))

    def stop(self) -> None:
        """Stops it in order."""
        self._running.close()

    def kill(self) -> None:
        """Ends it without a word (a container is stopped instead)."""
        pid = self._state.read_json("vault.pid.json").get("pid")
        if pid is not None:
            os.kill(int(pid), signal.SIGKILL)
        self.stop()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request as root; `path` is without `/v1/`. Headers with `_` for `-`."""
        with self.vault.admin() as admin:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return admin.raw(method, path, body, headers=named)

    def seal(self) -> None:
        assert self.ask("PUT", "sys/seal").is_success

    def unseal(self) -> None:
        """Unseals it, and waits until it serves."""
        assert self.ask("PUT", "sys/unseal", {"key": self._state.read_json("init.json")["unseal_key"]}).is_success
        while self.ask("GET", "sys/health").status_code != httpx.codes.OK:
            time.sleep(0.05)

    def role(self, name: str, **parameters: Any) -> tuple[str, str]:
        """An AppRole role with the service's policy; its role id and a secret id."""
        path = f"auth/{NAMES.approle}/role/{name}"
        body = {"token_policies": [NAMES.role], "token_no_default_policy": True, **parameters}
        assert self.ask("POST", path, body).is_success
        role_id = self.ask("GET", f"{path}/role-id").json()["data"]["role_id"]
        return role_id, self.ask("POST", f"{path}/secret-id", {}).json()["data"]["secret_id"]

    def token(self) -> str:
        """A new token of the service's policy."""
        body = {"policies": [NAMES.role], "no_default_policy": True, "ttl": "1h"}
        return str(self.ask("POST", "auth/token/create-orphan", body).json()["auth"]["client_token"])

    def audited(self, path: str) -> list[dict[str, Any]]:
        """The requests to a path that Vault has answered, by its audit log."""
        log = self._state.path / "vault" / "audit.log"
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        return [entry for entry in entries if entry["type"] == "response" and entry["request"]["path"] == path]

    def settings(self, **overrides: Any) -> Settings:
        """Settings of a service on this Vault, by field name."""
        given: dict[str, Any] = {
            "database_url": self.database_url,
            "vault_addr": self.vault.address,
            "vault_role_id": self.role_id,
            "vault_secret_id": self.secret_id,
        }
        return load_settings(**{**given, **overrides})


@asynccontextmanager
async def own_vault(stack: Stack, folder: Path, backend: str) -> AsyncIterator[OwnVault]:
    """A Vault and an empty, migrated database, provisioned for each other; both are gone when the block ends."""
    async with own_database(stack) as name:
        owner_url = in_database(stack.owner_url, name)
        await migrate(owner_url, transit_keys=[NAMES.type_key(each) for each in provisioning.CREDENTIAL_TYPES])
        vault = OwnVault(
            folder, vault_source(backend), await installation_id(owner_url), in_database(stack.runtime_url, name)
        )
        try:
            yield vault
        finally:
            vault.stop()
