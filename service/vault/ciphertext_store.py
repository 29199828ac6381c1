"""Vault's KV v2 engine, where ciphertexts live: by path and pinned version, never plaintext.

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2
"""

from typing import Any
from uuid import UUID

from hvac.api.secrets_engines import KvV2

from service.errors import CiphertextGone, CredentialUnreadable, VaultUnavailable
from service.vault.client import HvacAdapter, VaultClient, VaultNotFound
from service.vault.transit import key_version

INSTALLATION_PATH = "installation"


class KvCiphertextStore:
    """`CiphertextStore` on one KV v2 mount.

    Guarantees: only what has a ciphertext's form is written or handed back; a write is sent once. Does not: know
    whether a ciphertext is the right one; only decrypting under its context tells.
    """

    def __init__(self, client: VaultClient, mount: str) -> None:
        self._client = client
        self._kv = KvV2(HvacAdapter(client))
        self._mount = mount

    async def read(self, path: str, version: int) -> str:
        try:
            answer = await self._kv.read_secret_version(
                path, version=version, mount_point=self._mount, raise_on_deleted_version=True
            )
        except VaultNotFound:
            raise CiphertextGone from None
        # An older Vault may answer without the version asked for; a pin is exact.
        data, metadata = _field(answer, "data", "data"), _field(answer, "data", "metadata")
        if data is None:
            raise CiphertextGone
        if not isinstance(data, dict) or not isinstance(metadata, dict) or metadata.get("version") != version:
            raise CredentialUnreadable
        ciphertext = data.get("ciphertext")
        if not isinstance(ciphertext, str):
            raise CredentialUnreadable
        key_version(ciphertext)
        return ciphertext

    async def newest_version(self, path: str) -> int:
        try:
            answer = await self._kv.read_secret_metadata(path, mount_point=self._mount)
        except VaultNotFound:
            return 0
        return int(_field(answer, "data", "current_version") or 0)

    async def write(self, path: str, ciphertext: str, *, cas: int) -> int:
        key_version(ciphertext)
        answer = await self._kv.create_or_update_secret(
            path, secret={"ciphertext": ciphertext}, cas=cas, mount_point=self._mount
        )
        version = _field(answer, "data", "version")
        if not isinstance(version, int):
            raise VaultUnavailable("What answers at VAULT_ADDR is not Vault")
        return version

    async def annotate(self, path: str, metadata: dict[str, str]) -> None:
        # Not by hvac's update_metadata: replacing the whole is idempotent, so this may be repeated.
        await self._client.request(
            "POST", f"{self._mount}/metadata/{path}", json={"custom_metadata": metadata}, repeatable=True
        )

    async def destroy(self, path: str, version: int) -> None:
        try:
            await self._client.request(
                "PUT", f"{self._mount}/destroy/{path}", json={"versions": [version]}, repeatable=True
            )
        except VaultNotFound:
            return

    async def delete(self, path: str) -> None:
        try:
            await self._client.request("DELETE", f"{self._mount}/metadata/{path}", repeatable=True)
        except VaultNotFound:
            return

    async def list_paths(self, prefix: str = "") -> list[str]:
        try:
            answer = await self._kv.list_secrets(prefix, mount_point=self._mount)
        except VaultNotFound:
            return []
        return [str(name) for name in _field(answer, "data", "keys") or ()]

    async def live_versions(self, path: str) -> set[int]:
        """The versions of a path that are neither deleted nor destroyed."""
        try:
            answer = await self._kv.read_secret_metadata(path, mount_point=self._mount)
        except VaultNotFound:
            return set()
        versions = _field(answer, "data", "versions") or {}
        return {
            int(number)
            for number, version in versions.items()
            if not version.get("destroyed") and not version.get("deletion_time")
        }

    async def installation_id(self) -> UUID | None:
        try:
            answer = await self._kv.read_secret_version(
                INSTALLATION_PATH, mount_point=self._mount, raise_on_deleted_version=True
            )
            return UUID(str(_field(answer, "data", "data", "id")))
        except (VaultNotFound, ValueError):
            return None


def _field(answer: Any, *path: str) -> Any:
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer
