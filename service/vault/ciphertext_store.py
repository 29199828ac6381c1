"""Vault's KV v2 engine, where ciphertexts live: by path and pinned version, never plaintext.

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2
"""

from uuid import UUID

from hvac.api.secrets_engines import KvV2

from service.errors import CiphertextGone, CredentialUnreadable, VaultUnavailable
from service.modules.records import Seal
from service.modules.skew_records import PathDescription
from service.modules.vault_layout import INSTALLATION_PATH
from service.vault.client import NOT_VAULT, HvacAdapter, VaultClient, VaultNotFound, data_of
from service.vault.transit import key_version


class KvCiphertextStore:
    """`CiphertextStore` on one KV v2 mount.

    Guarantees: only what has a ciphertext's form is written or handed back; a write is sent once. Does not: know
    whether a ciphertext is the right one; only decrypting under its context tells.
    """

    def __init__(self, client: VaultClient, mount: str) -> None:
        self._client = client
        self._kv = KvV2(HvacAdapter(client))
        self._mount = mount

    async def read(self, path: str, version: int) -> Seal:
        try:
            answer = await self._kv.read_secret_version(
                path, version=version, mount_point=self._mount, raise_on_deleted_version=True
            )
        except VaultNotFound:
            raise CiphertextGone from None
        # An older Vault may answer without the version asked for; a pin is exact.
        data, metadata = data_of(answer).get("data"), data_of(answer).get("metadata")
        if data is None:
            raise CiphertextGone
        if not isinstance(data, dict) or not isinstance(metadata, dict) or metadata.get("version") != version:
            raise CredentialUnreadable
        ciphertext = data.get("ciphertext")
        if not isinstance(ciphertext, str):
            raise CredentialUnreadable
        return Seal(ciphertext=ciphertext, transit_key_version=key_version(ciphertext))

    async def newest_version(self, path: str) -> int:
        try:
            answer = await self._kv.read_secret_metadata(path, mount_point=self._mount)
        except VaultNotFound:
            return 0
        newest = data_of(answer).get("current_version")
        if not isinstance(newest, int):
            raise VaultUnavailable(NOT_VAULT)
        return newest

    async def write(self, path: str, ciphertext: str, *, cas: int) -> int:
        key_version(ciphertext)
        answer = await self._kv.create_or_update_secret(
            path, secret={"ciphertext": ciphertext}, cas=cas, mount_point=self._mount
        )
        version = data_of(answer).get("version")
        if not isinstance(version, int):
            raise VaultUnavailable(NOT_VAULT)
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
        names = data_of(answer).get("keys")
        if not isinstance(names, list):
            raise VaultUnavailable(NOT_VAULT)
        return [str(name) for name in names]

    async def live_versions(self, path: str) -> set[int]:
        return set((await self.describe(path)).live)

    async def describe(self, path: str) -> PathDescription:
        try:
            answer = await self._kv.read_secret_metadata(path, mount_point=self._mount)
        except VaultNotFound:
            return PathDescription()
        data = data_of(answer)
        newest, versions, annotation = (data.get(name) for name in ("current_version", "versions", "custom_metadata"))
        # An answer that isn't Vault's must not look like a path with nothing in it.
        if not isinstance(versions, dict) or not all(isinstance(version, dict) for version in versions.values()):
            raise VaultUnavailable(NOT_VAULT)
        if not isinstance(newest, int) or not isinstance(annotation or {}, dict):
            raise VaultUnavailable(NOT_VAULT)
        return PathDescription(
            newest=newest,
            live=frozenset(
                int(number)
                for number, version in versions.items()
                if not version.get("destroyed") and not version.get("deletion_time")
            ),
            annotation={str(name): str(value) for name, value in (annotation or {}).items()},
        )

    async def installation_id(self) -> UUID | None:
        try:
            answer = await self._kv.read_secret_version(
                INSTALLATION_PATH, mount_point=self._mount, raise_on_deleted_version=True
            )
            return UUID(str(data_of(data_of(answer)).get("id")))
        except (VaultNotFound, ValueError):
            return None
