"""Transit keys themselves: what versions they have, a new one, rewrapping, and the oldest one that decrypts.

https://developer.hashicorp.com/vault/api-docs/secret/transit: read, rotate, rewrap, update key configuration.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from service.errors import CiphertextRejected, KeyNotFound, KeyVersionRetired, VaultUnavailable
from service.http_fields import retry_after_seconds
from service.modules.key_records import KeyDescription
from service.modules.records import Seal
from service.vault.batch_request import decrypt_request
from service.vault.client import NOT_VAULT, VaultClient, VaultNotFound, check_path, data_of, meaning, told_by
from service.vault.transit import BATCH_HEADER, key_version
from service.vault.wire import Wire, WireAnswer

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class TransitKeys:
    """`KeyReader` on one transit mount.

    Guarantees: what it returns is how Vault answers, every field looked at. Does not: see key material; the answer
    of an exportable key has none either.
    """

    def __init__(self, client: VaultClient, mount: str) -> None:
        self._client = client
        self._mount = mount

    async def describe(self, key: str) -> KeyDescription:
        path = self._path("keys", key)
        try:
            answer = await self._client.request("GET", path, repeatable=True)
        except VaultNotFound:
            raise KeyNotFound from None
        return _description(key, data_of(answer))

    def _path(self, action: str, key: str) -> str:
        # A name with a slash would be another path.
        if not _NAME.fullmatch(key):
            raise KeyNotFound
        path = f"{self._mount}/{action}/{key}"
        check_path(path)
        return path


class TransitKeyRing(TransitKeys):
    """`KeyRing` on one transit mount, for the rotator's login.

    Guarantees: nothing is decrypted but inside Vault; a rotation is sent once. Does not: know what is encrypted under
    a version; whoever retires one has counted.
    """

    def __init__(self, client: VaultClient, wire: Wire, mount: str) -> None:
        super().__init__(client, mount)
        self._wire = wire

    async def rotate(self, key: str) -> None:
        await self._client.request("POST", f"{self._path('keys', key)}/rotate", json={}, repeatable=False)

    async def set_min_decryption_version(self, key: str, version: int) -> None:
        await self._client.request(
            "POST", f"{self._path('keys', key)}/config", json={"min_decryption_version": version}, repeatable=True
        )

    async def rewrap(self, key: str, items: Sequence[tuple[str, bytes]], *, batch_id: UUID) -> list[Seal | Exception]:
        path = self._path("rewrap", key)
        headers = {BATCH_HEADER: str(batch_id)}

        async def ask(token: str) -> list[Seal | Exception] | None:
            # The same items as a decryption's; neither request nor answer has any plaintext.
            request = decrypt_request(items, lambda length: self._wire.head(path, length, token, headers))
            return await self._wire.post(request, partial(_rewrapped, len(items)))

        rewrapped = await self._client.with_token(ask, repeatable=True, operation="rewrap")
        if rewrapped is None:
            raise VaultUnavailable(NOT_VAULT)
        return rewrapped


def _rewrapped(count: int, answer: WireAnswer) -> list[Seal | Exception] | None:
    """What came of a rewrap. None: this is not how Vault answers."""
    found: Any = None
    with suppress(ValueError):
        found = json.loads(bytes(answer.body))
    data = found.get("data") if isinstance(found, dict) else None
    results = data.get("batch_results") if isinstance(data, dict) else None
    # 400 where every item has failed, whatever `partial_failure_response_code` says.
    if not isinstance(results, list) or answer.status not in (200, 400):
        if 200 <= answer.status < 300:
            return None
        told = told_by(found) if isinstance(found, dict) else None
        raise meaning(answer.status, retry_after_seconds(answer.retry_after), told)
    if len(results) != count or not all(isinstance(result, dict) for result in results):
        return None
    with suppress(CiphertextRejected):
        return [_seal(result) for result in results]
    return None


def _seal(result: Mapping[str, Any]) -> Seal | Exception:
    error = result.get("error")
    if error:
        # As for a decryption (`batch_answer.py`): "... version is disallowed by policy (too old)".
        return KeyVersionRetired() if "too old" in str(error) else CiphertextRejected()
    ciphertext = str(result.get("ciphertext"))
    return Seal(ciphertext=ciphertext, transit_key_version=key_version(ciphertext))


def _description(name: str, data: Mapping[str, Any]) -> KeyDescription:
    versions = data.get("keys")
    if not isinstance(versions, dict) or not versions:
        raise VaultUnavailable(NOT_VAULT)
    period = _number(data, "auto_rotate_period")
    return KeyDescription(
        name=name,
        latest_version=_number(data, "latest_version"),
        min_decryption_version=_number(data, "min_decryption_version"),
        min_encryption_version=_number(data, "min_encryption_version"),
        min_available_version=_number(data, "min_available_version"),
        auto_rotate_period=timedelta(seconds=period) if period else None,
        created=dict(_dated(number, version) for number, version in versions.items()),
    )


def _number(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise VaultUnavailable(NOT_VAULT)
    return value


def _dated(number: str, version: object) -> tuple[int, datetime]:
    """A version's number and when it was made: a Unix time for symmetric keys, else an object that tells it."""
    try:
        if isinstance(version, dict):
            return int(number), datetime.fromisoformat(version["creation_time"])
        if isinstance(version, int):
            return int(number), datetime.fromtimestamp(version, UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        pass
    raise VaultUnavailable(NOT_VAULT)
