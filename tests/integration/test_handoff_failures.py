"""What a client says of a hand-off that it could not unwrap: a second event, from that hand-off's caller alone."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.handing_off import events_of, handed_off
from tests.rest import Headers, problem_of, stored
from tests.stored import some_user
from tests.written import Connection

FAILURES = ("already_used", "expired", "wrong_creation_path", "vault_unavailable", "unreadable")


@pytest.fixture
def user() -> str:
    return some_user()


@pytest.fixture
def robot(bearer: Callable[..., Headers], user: str) -> Headers:
    """An orchestrator that acts for the user."""
    return {**bearer("orchestrator", "robot"), "X-User-Id": user}


@pytest.fixture
async def body(client: httpx.AsyncClient, robot: Headers) -> dict[str, Any]:
    """A stored credential's metadata, and where it is handed off."""
    made = await stored(client, robot)
    return {**made, "path": f"/v1/credentials/{made['id']}/handoff"}


@pytest.fixture
async def failure(client: httpx.AsyncClient, robot: Headers, body: dict[str, Any]) -> str:
    """Where a failure of a hand-off is reported."""
    handed = await handed_off(client, robot, body["path"])
    return f"{body['path']}/{handed['handoff_id']}/failure"


@pytest.mark.parametrize("reason", FAILURES)
async def test_a_failure_is_recorded_once_for_each_reason_beside_its_grant(
    reason: str,
    failure: str,
    client: httpx.AsyncClient,
    robot: Headers,
    body: dict[str, Any],
    owner_conn: Connection,
) -> None:
    for said in (reason, reason, "expired", reason):
        answer = await client.post(failure, headers=robot, json={"reason": said})
        assert (answer.status_code, answer.content) == (204, b"")
    granted, *failed = await events_of(owner_conn, body["id"])
    assert granted["outcome"] == "granted"
    assert [each["reason"] for each in failed] == list(dict.fromkeys([reason, "expired"]))
    for each in failed:
        assert {**each, "outcome": "granted", "reason": None} == granted


async def test_a_failure_of_what_was_not_handed_off_to_this_caller_is_404(
    failure: str,
    client: httpx.AsyncClient,
    robot: Headers,
    bearer: Callable[..., Headers],
    body: dict[str, Any],
    user: str,
    owner_conn: Connection,
) -> None:
    another = await stored(client, robot)
    handoff = failure.split("/")[-2]
    tries = [
        (robot, f"{body['path']}/{uuid4()}/failure"),
        (robot, f"/v1/credentials/{another['id']}/handoff/{handoff}/failure"),
        (robot, f"/v1/credentials/{uuid4()}/handoff/{handoff}/failure"),
        ({**robot, "X-User-Id": some_user()}, failure),
        ({**bearer("orchestrator", "another"), "X-User-Id": user}, failure),
    ]
    for headers, address in tries:
        answer = await client.post(address, headers=headers, json={"reason": "expired"})
        assert problem_of(answer)[:2] == (404, "credential-not-found")
    assert [each["outcome"] for each in await events_of(owner_conn, body["id"])] == ["granted"]


@pytest.mark.parametrize(("minutes", "status"), [(14, 204), (15, 404)])
async def test_a_failure_may_come_for_a_quarter_of_an_hour(
    minutes: int,
    status: int,
    client: httpx.AsyncClient,
    robot: Headers,
    body: dict[str, Any],
    owner_conn: Connection,
    user: str,
) -> None:
    handoff = uuid4()
    await owner_conn.execute(
        "INSERT INTO credential_events (at, credential_id, user_id, acting_user, actor, action, outcome, batch_id) "
        "VALUES (clock_timestamp() - $4 * interval '1 minute', $1, $2, $2, 'orchestrator:robot', 'handoff', 'granted', "
        "$3)",
        UUID(body["id"]),
        user,
        handoff,
        float(minutes),
    )
    answer = await client.post(f"{body['path']}/{handoff}/failure", headers=robot, json={"reason": "expired"})
    assert answer.status_code == status


async def test_a_failure_is_recorded_also_when_the_credential_is_gone(
    failure: str, client: httpx.AsyncClient, robot: Headers, body: dict[str, Any], owner_conn: Connection
) -> None:
    await client.delete(f"/v1/credentials/{body['id']}", headers=robot)
    answer = await client.post(failure, headers=robot, json={"reason": "already_used"})
    assert answer.status_code == 204
    assert [each["reason"] for each in await events_of(owner_conn, body["id"])] == [None, "already_used"]


@pytest.mark.parametrize("sent", [{}, {"reason": "stolen"}, {"reason": None}, {"reason": ["expired"]}, {"reason": 1}])
async def test_a_reason_that_there_is_none_is_refused(
    sent: Any, failure: str, client: httpx.AsyncClient, robot: Headers
) -> None:
    answer = await client.post(failure, headers=robot, json=sent)
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [each["field"] for each in answer.json()["errors"]] == ["reason"]
