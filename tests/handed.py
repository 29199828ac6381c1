"""What tests of the orchestrator's client share: clients, credentials that trade, and a thief of wrapping tokens."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic import SecretStr

from service.client import CredentialsClient, KnownCredential
from service.client.unwrapping import HandOff, handed_off
from tests.doubles.alpaca import AlpacaStandIn
from tests.support import Stack
from tests.written import Connection, Pair, Somebody, pair_of_keys

Change = Callable[[dict[str, Any]], None]


@asynccontextmanager
async def client_for(
    url: str, stack: Stack, role: str = "orchestrator", subject: str = "bot", **options: Any
) -> AsyncIterator[CredentialsClient]:
    """A client of the service at this address, whose tokens are this caller's."""
    token = stack.mint(role, subject)
    async with CredentialsClient(url, **{"token": lambda: token} | options) as client:
        yield client


async def stored_by(
    client: CredentialsClient, somebody: Somebody, keys: Pair | None = None
) -> tuple[KnownCredential, Pair]:
    """A new Alpaca credential of somebody's, and its keys."""
    keys = keys or pair_of_keys()
    secrets = SecretStr(keys[0]), SecretStr(keys[1])
    return await client.store(somebody.account_id, "alpaca", *secrets, user_id=somebody.user_id), keys


async def tradable(
    client: CredentialsClient, alpaca: AlpacaStandIn, somebody: Somebody
) -> tuple[KnownCredential, Pair]:
    """A credential whose keys Alpaca accepts, and which is known to be of a paper account."""
    keys = pair_of_keys()
    alpaca.open_account(*keys)
    made, _ = await stored_by(client, somebody, keys)
    assert (await client.validate(made.id, user_id=somebody.user_id)).account_type == "paper"
    return made, keys


def changing(change: Change) -> Callable[[bytes], HandOff]:
    """What reads a hand-off, after somebody on the way has done something to it, or with its token."""

    def read(body: bytes) -> HandOff:
        told = json.loads(body)
        change(told)
        return handed_off(json.dumps(told).encode())

    return read


def vault_says(
    stack: Stack, path: str, body: object = None, *, token: str | None = None, wrap: str = ""
) -> httpx.Response:
    """One request to Vault, as root or with this token; `wrap`: its answer is to be wrapped for so long."""
    headers = {"X-Vault-Token": token or stack.root_token} | ({"X-Vault-Wrap-TTL": wrap} if wrap else {})
    return httpx.post(f"{stack.vault_addr}/v1/{path}", json=body, headers=headers, timeout=30)


def unwrapped_by_a_thief(stack: Stack, token: str) -> dict[str, Any]:
    """What was wrapped, for whoever brings the token first."""
    answer = vault_says(stack, "sys/wrapping/unwrap", token=token)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def failures(conn: Connection, credential_id: str) -> list[tuple[str, str]]:
    """The outcomes and reasons of a credential's hand-offs that did not just go well, oldest first."""
    rows = await conn.fetch(
        "SELECT outcome, reason FROM credential_events WHERE credential_id = $1 AND action = 'handoff'"
        " AND outcome <> 'granted' ORDER BY id",
        credential_id,
    )
    return [(row["outcome"], row["reason"]) for row in rows]
