"""A real Vault for tests of the policies, where each role may do what it may: keys are rotated and paths deleted here.

Beside this service there is another application's: keys on the same transit mount, one of them with this service's
prefix, and mounts of its own.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from service.localstack import provisioning
from service.localstack.policies import VaultNames
from service.localstack.state_dir import StateDir
from service.localstack.vault_admin import VaultAdmin
from service.localstack.vault_server import running_vault
from tests.own_vault import vault_source

NAMES = VaultNames()
OTHER_KEYS = ("payments", "credentials-of-others")
OTHER_MOUNTS = {"other-transit": "transit", "other-kv": "kv"}


class PolicyVault:
    """That Vault, and a client of it for each role."""

    def __init__(self, root: VaultAdmin, stack: ExitStack) -> None:
        self.root = root
        self._clients: dict[str, VaultAdmin] = {"root": root}
        self._stack = stack

    def ask(self, role: str, method: str, path: str, body: Any = None, *, wrap: str | None = None) -> httpx.Response:
        """One request as `root`, or with a token of this role's; `wrap`: its answer is to be kept by Vault so long."""
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        if wrap is not None:
            headers["X-Vault-Wrap-TTL"] = wrap
        return self._client(role).raw(method, path, body, headers=headers)

    def forget(self, role: str) -> None:
        """The role's token is of no use any more: the next request is made with another."""
        del self._clients[role]

    def token(self, role: str) -> str:
        """A new token of this role's: a login of a program's, or what a person's login gives."""
        if role in ("operator", "auditor"):
            policy = {"operator": NAMES.operator, "auditor": NAMES.auditor}[role]
            body: dict[str, Any] = {"policies": [policy], "no_default_policy": True, "ttl": "1h"}
            return str(self.root.call("POST", "auth/token/create-orphan", body)["auth"]["client_token"])
        login = {"runtime": provisioning.runtime_login, "rotator": provisioning.rotator_login}[role]
        given = login(self.root, NAMES, None)
        body = {"role_id": given.role_id, "secret_id": given.secret_id}
        return str(self.root.call("POST", f"auth/{NAMES.approle}/login", body)["auth"]["client_token"])

    def credential(self) -> str:
        """A new KV path with three versions and custom metadata, as a stored credential has it."""
        path = f"{uuid4()}/{uuid4()}"
        for cas in range(3):
            body = {"data": {"ciphertext": "vault:v1:x"}, "options": {"cas": cas}}
            self.root.call("POST", f"{NAMES.kv}/data/{path}", body)
        self.root.call("POST", f"{NAMES.kv}/metadata/{path}", {"custom_metadata": {"transit_key_version": "1"}})
        return path

    def _client(self, role: str) -> VaultAdmin:
        if role not in self._clients:
            self._clients[role] = self._stack.enter_context(self.root.with_token(self.token(role)))
        return self._clients[role]


@contextmanager
def policy_vault(folder: Path, backend: str) -> Iterator[PolicyVault]:
    """Such a Vault for as long as the block lasts."""
    state = StateDir(folder)
    state.create()
    with ExitStack() as stack:
        running = stack.enter_context(running_vault(vault_source(backend), state, print))
        root = stack.enter_context(running.admin())
        provisioning.ensure_audited(root, running.audit_path, print)
        provisioning.provision(root, uuid4(), NAMES)
        for key in OTHER_KEYS:
            root.call("POST", f"{NAMES.transit}/keys/{key}", {"type": "aes256-gcm96"})
        for mount, kind in OTHER_MOUNTS.items():
            options = {"version": "2"} if kind == "kv" else {}
            root.call("POST", f"sys/mounts/{mount}", {"type": kind, "options": options})
        root.call("POST", "other-transit/keys/credentials-alpaca", {})
        root.call("POST", "other-kv/data/a/b", {"data": {"password": "x"}})
        root.call("POST", f"{NAMES.kv}/data/event-seal", {"data": {"number": "1"}, "options": {"cas": 0}})
        # Without it no version can be trimmed; a rotator's `min_decryption_version` of 1 stays possible.
        for credential_type in provisioning.CREDENTIAL_TYPES:
            where = f"{NAMES.transit}/keys/{NAMES.type_key(credential_type)}/config"
            root.call("POST", where, {"min_encryption_version": 1})
        yield PolicyVault(root, stack)
