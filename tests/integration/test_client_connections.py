"""The client's connections to the service: kept while all is in order, and never used again after anything else."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from service.client import CredentialsClient
from service.errors import ServiceOutcomeUnknown
from service.schemas.credential_metadata import CredentialMetadata
from tests.doubles.raw_server import RawServer, Script, answer, sends, sends_and_resets, sends_and_stalls

KNOWN = {"id": str(uuid4()), "account_id": str(uuid4()), "credential_type": "alpaca", "is_active": True}
TIMES = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
MORE = {"user_id": "alice", "validation_state": "valid", "transit_key": "k", "can_roll_back": False}


def credential(version: int) -> bytes:
    told: dict[str, Any] = dict.fromkeys(CredentialMetadata.model_fields) | KNOWN | TIMES | MORE
    return answer(json.dumps(told | {"secret_version": version, "transit_key_version": 1}).encode())


async def test_a_connection_is_kept_and_requests_at_once_have_each_their_own() -> None:
    async with RawServer(sends(credential(1))) as server, CredentialsClient(server.url, token=lambda: "t") as client:
        for _ in range(5):
            await client.rollback(uuid4())
        assert server.connections == 1
        await asyncio.gather(*(client.rollback(uuid4()) for _ in range(5)))
        assert server.connections <= 5


@pytest.mark.parametrize(
    "trouble",
    [
        sends_and_stalls(credential(1)[:-20]),
        sends_and_resets(credential(1)[:-20]),
        sends(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    ],
    ids=["stalls", "reset", "no http"],
)
async def test_after_trouble_the_next_request_gets_its_own_answer(trouble: Script) -> None:
    async with (
        RawServer(sends(credential(2))) as server,
        CredentialsClient(server.url, token=lambda: "t", timeout=2) as client,
    ):
        server.scripts.append(trouble)
        with pytest.raises(ServiceOutcomeUnknown):
            await client.rollback(uuid4())
        assert (await client.rollback(uuid4())).secret_version == 2
        assert [request.connection for request in server.requests] == [1, 2]


async def test_after_a_cancellation_the_next_request_gets_its_own_answer() -> None:
    async with RawServer(sends(credential(2))) as server, CredentialsClient(server.url, token=lambda: "t") as client:
        arrived = asyncio.Event()

        async def half(request: Any) -> None:
            await request.send(credential(1)[:-20])
            arrived.set()
            await request.hold.wait()

        server.scripts.append(half)
        task = asyncio.create_task(client.rollback(uuid4()))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.rollback(uuid4())).secret_version == 2
        assert [request.connection for request in server.requests] == [1, 2]
