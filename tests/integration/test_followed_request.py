"""One request, followed: from its line in our log, and from its event, to Vault's audit log."""

import json
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.observability import LineFormatter
from tests.evidence import AuditLog
from tests.rest import Headers, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
Bearer = Callable[..., Headers]


@pytest.fixture
def audit(stack: Stack) -> AuditLog:
    if stack.local.vault.audit_path is None:
        pytest.skip("not this machine's Vault")
    return AuditLog(stack)


def line_of(answer: httpx.Response, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The line of an answer, as it is written."""
    written = [json.loads(LineFormatter().format(each)) for each in caplog.records if each.name == "service.access"]
    (line,) = [each for each in written if each["request_id"] == answer.headers["x-request-id"]]
    return dict(line)


def header(entry: dict[str, Any], name: str) -> str:
    return ",".join(entry["request"].get("headers", {}).get(name, ()))


def audited(audit: AuditLog, name: str, value: str) -> list[str]:
    """The paths of what Vault was asked with this header."""
    return [entry["request"]["path"] for entry in audit.entries() if value in header(entry, name).split(",")]


async def test_a_store_and_an_open_are_found_in_vaults_audit_log_from_their_lines_and_events(
    stack: Stack, client: httpx.AsyncClient, bearer: Bearer, audit: AuditLog, owner_conn: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    user = bearer("user", some_user())
    with caplog.at_level(logging.INFO):
        shown = await client.post("/v1/credentials", json=_body(), headers={**user, "traceparent": TRACEPARENT})
        robot = {**bearer("orchestrator", "robot"), "X-User-Id": await _owner(owner_conn, shown.json()["id"])}
        handed = await client.post(
            f"/v1/credentials/{shown.json()['id']}/handoff", headers={**robot, "traceparent": TRACEPARENT}
        )
    assert (shown.status_code, handed.status_code) == (201, 200)

    store = line_of(shown, caplog)
    assert store["trace_id"] == TRACE
    (encryption,) = store["batches"]
    assert audited(audit, "x-credentials-batch-id", encryption) == ["transit/encrypt/credentials-alpaca"]
    path = f"credentials/data/{_body()['account_id']}/{shown.json()['id']}"
    assert path in audited(audit, "x-request-id", store["request_id"])
    assert path in audited(audit, "traceparent", TRACEPARENT)

    hand_off = line_of(handed, caplog)
    assert hand_off["batches"] == [handed.json()["handoff_id"]]
    wanted = "transit/decrypt/credentials-alpaca"
    assert audited(audit, "x-credentials-batch-id", hand_off["batches"][0]) == [wanted]
    assert wanted in audited(audit, "x-request-id", hand_off["request_id"])

    # The same from the event that an auditor sees.
    event = await owner_conn.fetchrow(
        "SELECT batch_id, request_id FROM credential_events WHERE credential_id = $1 AND action = 'handoff'",
        UUID(shown.json()["id"]),
    )
    assert event is not None
    assert (str(event["batch_id"]), event["request_id"]) == (hand_off["batches"][0], hand_off["request_id"])


async def test_a_batch_carries_its_own_id_and_no_callers(
    client: httpx.AsyncClient, bearer: Bearer, audit: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    user = bearer("user", some_user())
    made = await stored(client, user)
    with caplog.at_level(logging.INFO):
        rolled = await client.post(
            f"/v1/credentials/{made['id']}/validate", headers={**user, "traceparent": TRACEPARENT}
        )
    batches = line_of(rolled, caplog)["batches"]
    assert batches
    entries = [e for e in audit.entries() if header(e, "x-credentials-batch-id") in batches]
    assert [entry["request"]["path"] for entry in entries] == ["transit/decrypt/credentials-alpaca"]
    assert not any(header(entry, "x-request-id") or header(entry, "traceparent") for entry in entries)


def _body() -> dict[str, str]:
    return {
        "account_id": "7a5cd1b4-3d0b-4c5e-9f4e-6f0b4f5f9a10",
        "credential_type": "alpaca",
        "api_key": "AKEXAMPLE",
        "secret_key": "example-secret",
    }


async def _owner(conn: Connection, credential_id: str) -> str:
    return str(await conn.fetchval("SELECT user_id FROM credentials WHERE id = $1", UUID(credential_id)))
