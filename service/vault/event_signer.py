"""Vault's part in sealing the events: a transit key that signs seals, and the newest seal in KV as an anchor.

https://developer.hashicorp.com/vault/api-docs/secret/transit#sign-data
"""

import base64
import binascii
import re
from collections.abc import Mapping

from hvac.api.secrets_engines import KvV2

from service.errors import KeyNotFound, VaultUnavailable
from service.modules.event_chain import SealMark
from service.modules.event_ports import Anchored, Signature
from service.modules.vault_layout import ANCHOR_PATH
from service.vault.client import NOT_VAULT, HvacAdapter, VaultClient, VaultNotFound, data_of

_SIGNATURE = re.compile(r"vault:v([1-9][0-9]{0,9}):([A-Za-z0-9+/]{86}==)")  # Ed25519: 64 bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TransitEventSigner:
    """`EventSigner` on one transit key of type ed25519.

    Guarantees: a signature is handed on as bytes and a key version, not in Vault's own form. Does not: verify it.
    """

    def __init__(self, client: VaultClient, mount: str, key: str) -> None:
        self._client = client
        self._mount = mount
        self._key = key

    async def sign(self, digest: bytes) -> Signature:
        """Signs with the key's newest version. Ed25519 is deterministic, so it is safe to repeat."""
        answer = await self._client.request(
            "POST",
            f"{self._mount}/sign/{self._key}",
            json={"input": base64.b64encode(digest).decode("ascii")},
            repeatable=True,
        )
        match = _SIGNATURE.fullmatch(str(data_of(answer).get("signature")))
        if match is None:
            raise VaultUnavailable(NOT_VAULT)
        return Signature(int(match[1]), base64.b64decode(match[2]))

    async def public_keys(self) -> Mapping[int, bytes]:
        """Raises KeyNotFound where there is no such key; VaultUnavailable where it is of another type."""
        try:
            answer = await self._client.request("GET", f"{self._mount}/keys/{self._key}", repeatable=True)
        except VaultNotFound:
            raise KeyNotFound("Vault has no key that signs seals over the events") from None
        try:
            return {
                int(version): base64.b64decode(each["public_key"], validate=True)
                for version, each in data_of(answer)["keys"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error):
            raise VaultUnavailable(NOT_VAULT) from None


class KvSealAnchor:
    """`SealAnchor` below one KV v2 mount.

    Guarantees: a write takes the place of what was read, and of nothing newer (`cas`). Does not: keep who may write
    there from writing anything else.
    """

    def __init__(self, client: VaultClient, mount: str) -> None:
        self._kv = KvV2(HvacAdapter(client))
        self._mount = mount

    async def read(self) -> Anchored:
        try:
            answer = await self._kv.read_secret_version(
                ANCHOR_PATH, mount_point=self._mount, raise_on_deleted_version=True
            )
        except VaultNotFound:
            return Anchored(None, 0)  # or deleted: then a write is a CasMismatch, until somebody undeletes it
        metadata, data = data_of(answer).get("metadata"), data_of(answer).get("data")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("version"), int):
            raise VaultUnavailable(NOT_VAULT)
        mark = _mark(data)
        return Anchored(mark, metadata["version"], malformed=mark is None)

    async def write(self, mark: SealMark, *, cas: int) -> None:
        await self._kv.create_or_update_secret(
            ANCHOR_PATH,
            secret={"number": mark.number, "sha256": mark.sha256.hex()},
            cas=cas,
            mount_point=self._mount,
        )


def _mark(data: object) -> SealMark | None:
    if not isinstance(data, dict):
        return None
    number, sha256 = data.get("number"), data.get("sha256")
    # type: JSON's true is an int to isinstance. The bounds are those of `event_seals.number`.
    if type(number) is not int or not 0 < number < 2**63:
        return None
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        return None
    return SealMark(number, bytes.fromhex(sha256))
