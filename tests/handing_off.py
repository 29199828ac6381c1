"""What tests of hand-offs share: asking for one, what Vault says of its token, and the events."""

import base64
from typing import Any
from uuid import UUID

import httpx

from tests.rest import Headers
from tests.support import Stack
from tests.written import Connection


async def handed_off(client: httpx.AsyncClient, robot: Headers, path: str, **sent: Any) -> dict[str, Any]:
    """A hand-off, as answered."""
    answer = await client.post(path, headers=robot, json=sent or None)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def looked_up(stack: Stack, token: str) -> httpx.Response:
    """By whoever has the token and nothing else, as the client does it."""
    return stack.vault("POST", "sys/wrapping/lookup", {"token": token}, token="")


def unwrapped(stack: Stack, token: str) -> httpx.Response:
    """By whoever has the token."""
    return stack.vault("POST", "sys/wrapping/unwrap", token=token)


def pair_in(answer: httpx.Response) -> str:
    """The two keys that were unwrapped, with a newline between."""
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"]["plaintext"]).decode()


async def events_of(conn: Connection, credential_id: str) -> list[dict[str, Any]]:
    """Its hand-offs' events, oldest first."""
    rows = await conn.fetch(
        "SELECT outcome, reason, actor, acting_user, user_id, account_id, batch_id, transit_key, transit_key_version "
        "FROM credential_events WHERE credential_id = $1 AND action = 'handoff' ORDER BY at, id",
        UUID(credential_id),
    )
    return [dict(row) for row in rows]
