"""Vault asked over the wire is Vault asked through httpx: the same answers, the same errors."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from service.errors import CasMismatch, CredentialsError, VaultDenied, VaultRefused
from service.http_clients import vault_client
from service.vault.client import VaultClient, VaultNotFound
from service.vault.wire import Wire
from service.vault.wire_client import WireVaultClient
from tests.support import Stack


class Token:
    """A token, and another one once it is refused."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)

    async def token(self) -> str:
        return self._tokens[0]

    async def replace(self, refused: str) -> bool:
        assert refused == self._tokens[0]
        if len(self._tokens) == 1:
            return False
        self._tokens.pop(0)
        return True


@asynccontextmanager
async def both(stack: Stack, *tokens: str) -> AsyncIterator[tuple[VaultClient, VaultClient]]:
    """A client of each kind."""
    settings, common = stack.settings(), {"namespace": stack.local.vault.namespace, "retries": 0}
    async with AsyncExitStack() as opened:
        http = await opened.enter_async_context(vault_client(settings))
        wire = await opened.enter_async_context(Wire.open(settings))
        yield (
            VaultClient(http, Token(*tokens), **common),  # type: ignore[arg-type]  # they are what is asked for
            WireVaultClient(http, Token(*tokens), wire, **common),  # type: ignore[arg-type]
        )


async def outcome(client: VaultClient, method: str, path: str, **given: Any) -> Any:
    """What it answers, but for what is of the moment; or the error's class."""
    try:
        answer = await client.request(method, path, repeatable=False, **given)
    except CredentialsError as error:
        return type(error)
    return {name: value for name, value in answer.items() if name != "request_id"}


async def test_both_answer_and_fail_alike(stack: Stack) -> None:
    path = f"{uuid4()}/{uuid4()}"
    async with both(stack, stack.root_token) as (usual, wired):
        data = {"data": {"ciphertext": "vault:v1:AAAA"}, "options": {"cas": 0}}
        written = await outcome(wired, "POST", f"credentials/data/{path}", json=data)
        assert written["data"]["version"] == 1
        requests: list[tuple[str, str, dict[str, Any], Any]] = [
            ("GET", f"credentials/data/{path}", {"params": {"version": 1}}, dict),
            ("GET", f"credentials/data/{path}", {"params": {"version": 2}}, VaultNotFound),
            ("GET", "credentials/data/installation", {}, dict),
            ("LIST", f"credentials/metadata/{path.partition('/')[0]}/", {}, dict),
            ("POST", f"credentials/data/{path}", {"json": data}, CasMismatch),
            ("POST", f"credentials/metadata/{path}", {"json": {"custom_metadata": {"a": "b"}}}, dict),
            ("POST", "transit/rewrap/credentials-alpaca", {"json": {"ciphertext": "none"}}, VaultRefused),
            ("GET", "credentials/../x", {}, VaultRefused),
        ]
        for method, asked, given, expected in requests:
            first, second = [await outcome(each, method, asked, **given) for each in (usual, wired)]
            assert first == second
            assert isinstance(second, expected) if expected is dict else second is expected, asked
        assert await outcome(wired, "DELETE", f"credentials/metadata/{path}") == {}


async def test_a_refused_token_is_replaced_and_a_missing_right_is_an_error(stack: Stack) -> None:
    async with both(stack, "hvs.nobody", stack.root_token) as (_, wired):
        assert isinstance(await outcome(wired, "GET", "transit/keys/credentials-alpaca"), dict)
    async with both(stack, stack.runtime_token()) as (_, wired):
        with pytest.raises(VaultDenied):
            await wired.request("GET", "sys/policies/acl/root", repeatable=False)
