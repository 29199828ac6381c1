"""Vault's transit engine: encrypt and decrypt in batches, HMAC. The keys never leave Vault.

Requests are our own, not hvac's, which has no `partial_failure_response_code`
(https://developer.hashicorp.com/vault/api-docs/secret/transit#partial_failure_response_code).
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from service.errors import CiphertextRejected, KeyVersionRetired, VaultRefused, VaultUnavailable
from service.memory.plaintext import MASK, Plaintext
from service.modules.records import Mac, Seal
from service.vault.client import NOT_VAULT, BatchRefused, VaultClient, data_of

BATCH_HEADER = "X-Credentials-Batch-Id"
"""Vault logs this header in the clear (`sys/config/auditing/request-headers`): it joins our events to its audit log."""

_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,9}):[A-Za-z0-9+/]+={0,2}")
_MAC = re.compile(r"vault:v([1-9][0-9]{0,9}):([A-Za-z0-9+/]{43}=)")
_MAX_CIPHERTEXT = 8192


class _Masked(dict[str, str]):
    """A batch's item, of which a traceback with locals shows stars."""

    def __repr__(self) -> str:
        return MASK


class TransitCipher:
    """`Cipher` on one transit mount.

    Guarantees: a bad item fails alone, in its place; encryption and decryption are safe to repeat and are repeated
    after faults that pass by themselves. Does not: decide who may ask, nor record it.
    """

    def __init__(self, client: VaultClient, mount: str) -> None:
        self._client = client
        self._mount = mount

    async def encrypt(self, key: str, items: Sequence[tuple[Plaintext, bytes]]) -> list[Seal | Exception]:
        batch = [
            # The request's JSON needs the plaintext as base64 text, which lives until the request is sent.
            _Masked(plaintext=base64.b64encode(plaintext.reveal()).decode("ascii"), context=_b64(context))
            for plaintext, context in items
        ]
        return [_sealed(result) for result in await self._batch(f"encrypt/{key}", batch)]

    async def decrypt(
        self, key: str, items: Sequence[tuple[str, bytes]], *, batch_id: UUID
    ) -> list[Plaintext | Exception]:
        batch = [_Masked(ciphertext=ciphertext, context=_b64(context)) for ciphertext, context in items]
        results = await self._batch(f"decrypt/{key}", batch, headers={BATCH_HEADER: str(batch_id)})
        return [_opened(result) for result in results]

    async def _batch(
        self, path: str, batch: list[_Masked], headers: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        body = {"batch_input": batch, "partial_failure_response_code": 200}
        try:
            answer = await self._client.request(
                "POST", f"{self._mount}/{path}", json=body, headers=headers, repeatable=True
            )
            results = data_of(answer).get("batch_results")
        except BatchRefused as refused:
            results = refused.results
        if not isinstance(results, list) or len(results) != len(batch):
            raise VaultUnavailable(NOT_VAULT)
        if not all(isinstance(result, dict) for result in results):
            raise VaultUnavailable(NOT_VAULT)
        return results

    async def hmac(self, key: str, digest: bytes) -> Mac:
        answer = await self._client.request(
            "POST", f"{self._mount}/hmac/{key}", json={"input": _b64(digest)}, repeatable=True
        )
        match = _MAC.fullmatch(str(data_of(answer).get("hmac")))
        if match is None:
            raise VaultUnavailable(NOT_VAULT)
        return Mac(int(match[1]), base64.b64decode(match[2]))

    async def hmac_matches(self, key: str, digest: bytes, mac: Mac) -> bool:
        try:
            answer = await self._client.request(
                "POST",
                f"{self._mount}/verify/{key}",
                json={"input": _b64(digest), "hmac": f"vault:v{mac.key_version}:{_b64(mac.value)}"},
                repeatable=True,
            )
        except VaultRefused:
            return False  # made under a version that has been trimmed: nobody can tell any more
        return data_of(answer).get("valid") is True


def key_version(ciphertext: str) -> int:
    """The key version that a ciphertext names. Raises CiphertextRejected for what is no ciphertext."""
    if len(ciphertext) > _MAX_CIPHERTEXT or not (match := _CIPHERTEXT.fullmatch(ciphertext)):
        raise CiphertextRejected
    return int(match[1])


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _sealed(result: dict[str, Any]) -> Seal | Exception:
    if "ciphertext" not in result:
        return VaultRefused("Vault refused to encrypt")
    ciphertext = str(result["ciphertext"])
    return Seal(ciphertext=ciphertext, transit_key_version=key_version(ciphertext))


def _opened(result: dict[str, Any]) -> Plaintext | Exception:
    # Below `min_decryption_version` Vault says that the version is disallowed by policy, being too old.
    if result.get("error") or "plaintext" not in result:
        # Vault words this "... version is disallowed by policy (too old)".
        return KeyVersionRetired() if "too old" in str(result.get("error")) else CiphertextRejected()
    try:
        return Plaintext(bytearray(base64.b64decode(result["plaintext"], validate=True)))
    except (binascii.Error, TypeError):
        return CiphertextRejected()
