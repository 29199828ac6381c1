"""Vault's transit engine: encrypt and decrypt in batches, over the wire; HMAC. The keys never leave Vault.

Requests are our own, not hvac's, which has no `partial_failure_response_code`
(https://developer.hashicorp.com/vault/api-docs/secret/transit#partial_failure_response_code).
"""

import base64
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from service.errors import CiphertextRejected, VaultRefused, VaultUnavailable
from service.http_fields import retry_after_seconds
from service.memory.plaintext import Plaintext
from service.modules.records import Mac, Seal
from service.vault.batch_answer import find_items, open_items
from service.vault.batch_request import decrypt_request, encrypt_request
from service.vault.client import NOT_VAULT, VaultClient, check_path, data_of, meaning, told_by
from service.vault.json_spans import NotVaults
from service.vault.wire import Wire, WireAnswer

BATCH_HEADER = "X-Credentials-Batch-Id"
"""Vault logs this header in the clear (`sys/config/auditing/request-headers`): it joins our events to its audit log."""

_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,9}):[A-Za-z0-9+/]+={0,2}")
_MAC = re.compile(r"vault:v([1-9][0-9]{0,9}):([A-Za-z0-9+/]{43}=)")
_MAX_CIPHERTEXT = 8192
_WITH_RESULTS = (200, 400)
"""400 where every item has failed, whatever `partial_failure_response_code` says."""

_Item = TypeVar("_Item")


class TransitCipher:
    """`Cipher` on one transit mount.

    Guarantees: a bad item fails alone, in its place; encryption and decryption are safe to repeat and are repeated
    after faults that pass by themselves; of a plaintext there is no copy but in buffers that are wiped, whatever
    happens. Does not: decide who may ask, nor record it.
    """

    def __init__(self, client: VaultClient, wire: Wire, mount: str) -> None:
        self._client = client
        self._wire = wire
        self._mount = mount

    async def encrypt(
        self, key: str, items: Sequence[tuple[Plaintext, bytes]], *, batch_id: UUID | None = None
    ) -> list[Seal | Exception]:
        path = self._path("encrypt", key)
        headers = {} if batch_id is None else {BATCH_HEADER: str(batch_id)}
        count = len(items)

        async def ask(token: str) -> list[Seal | Exception] | None:
            with encrypt_request(items, lambda length: self._wire.head(path, length, token, headers)) as request:
                return await self._wire.post(request.view, partial(_sealed, count))

        return _of_vault(await self._client.with_token(ask, repeatable=True, operation="encrypt"))

    async def decrypt(
        self, key: str, items: Sequence[tuple[str, bytes]], *, batch_ids: Sequence[UUID]
    ) -> list[Plaintext | Exception]:
        path = self._path("decrypt", key)
        headers = {BATCH_HEADER: ",".join(dict.fromkeys(map(str, batch_ids)))}
        count = len(items)

        async def ask(token: str) -> list[Plaintext | Exception] | None:
            request = decrypt_request(items, lambda length: self._wire.head(path, length, token, headers))
            return await self._wire.post(request, partial(_opened, count))

        return _of_vault(await self._client.with_token(ask, repeatable=True, operation="decrypt"))

    def _path(self, action: str, key: str) -> str:
        path = f"{self._mount}/{action}/{key}"
        check_path(path)
        return path

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


def _of_vault(results: list[_Item] | None) -> list[_Item]:
    # Out here, where it is not tried again: what answers like that will do so again.
    if results is None:
        raise VaultUnavailable(NOT_VAULT)
    return results


def _sealed(count: int, answer: WireAnswer) -> list[Seal | Exception] | None:
    """What came of an encryption. The answer has no plaintext, so it may be read as any JSON.

    None: this is not how Vault answers.
    """
    told: str | None = None
    results: Any = None
    with suppress(ValueError):
        found = json.loads(bytes(answer.body))
        if isinstance(found, dict):
            told, data = told_by(found), found.get("data")
            results = data.get("batch_results") if isinstance(data, dict) else None
    if not isinstance(results, list) or answer.status not in _WITH_RESULTS:
        _check_refusal(answer, told)
        return None
    if len(results) != count or not all(isinstance(result, dict) for result in results):
        return None
    with suppress(CiphertextRejected):
        return [_seal(result) for result in results]
    return None


def _seal(result: dict[str, Any]) -> Seal | Exception:
    if "ciphertext" not in result:
        return VaultRefused("Vault refused to encrypt")
    ciphertext = str(result["ciphertext"])
    return Seal(ciphertext=ciphertext, transit_key_version=key_version(ciphertext))


def _opened(count: int, answer: WireAnswer) -> list[Plaintext | Exception] | None:
    """What came of a decryption. None: this is not how Vault answers."""
    told: str | None = None
    items = None
    with suppress(NotVaults):
        found = find_items(answer.body)
        told, items = found.told, found.items
    if items is None or answer.status not in _WITH_RESULTS:
        _check_refusal(answer, told)
        return None
    with suppress(NotVaults):
        return open_items(answer.body, answer.address, items) if len(items) == count else None
    return None


def _check_refusal(answer: WireAnswer, told: str | None) -> None:
    """Raises what an answer without results means, but for a success: that is not how Vault answers."""
    if not 200 <= answer.status < 300:
        raise meaning(answer.status, retry_after_seconds(answer.retry_after), told)
