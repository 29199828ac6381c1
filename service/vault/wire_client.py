"""Requests to Vault over the wire instead of httpx: the same ones, at a fifth of the cost, for who sends so many."""

import json as json_codec
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import httpx

from service.errors import VaultUnavailable
from service.http_fields import retry_after_seconds
from service.vault.client import NOT_VAULT, TokenSource, VaultClient, check_path, meaning, operation_of, told_by
from service.vault.wire import Wire, WireAnswer


class WireVaultClient(VaultClient):
    """`VaultClient`, but for `health`, over the wire. Guarantees and raises as that does."""

    def __init__(
        self, http: httpx.AsyncClient, session: TokenSource, wire: Wire, *, namespace: str | None, retries: int
    ) -> None:
        super().__init__(http, session, namespace=namespace, retries=retries)
        self._wire = wire

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool,
    ) -> dict[str, Any]:
        check_path(path)
        target = f"{path}?{urlencode(params)}" if params else path
        body = b"" if json is None else json_codec.dumps(json).encode("ascii")

        async def ask(token: str) -> dict[str, Any]:
            head = self._wire.head(target, len(body), token, headers or {}, method=method)
            return await self._wire.post(head + body, _answered)

        return await self.with_token(ask, repeatable=repeatable, operation=operation_of(method, path))


def _answered(answer: WireAnswer) -> dict[str, Any]:
    is_success = 200 <= answer.status < 300
    if is_success and not answer.body:
        return {}
    found: Any = None
    with suppress(ValueError):
        found = json_codec.loads(bytes(answer.body))
    if not is_success:
        told = told_by(found) if isinstance(found, dict) else None
        raise meaning(answer.status, retry_after_seconds(answer.retry_after), told)
    if not isinstance(found, dict):
        raise VaultUnavailable(NOT_VAULT)
    return found
