"""Handing off over REST, against a real Vault: a token that gives the right pair, once, in time, to be told apart by
what it was made for; and events that say so.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.evidence import AuditLog
from tests.handing_off import events_of, handed_off, looked_up, pair_in, unwrapped
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection

PATH = "transit/decrypt/credentials-alpaca"


@pytest.fixture
def user() -> str:
    return some_user()


@pytest.fixture
def robot(bearer: Callable[..., Headers], user: str) -> Headers:
    """An orchestrator that acts for the user."""
    return {**bearer("orchestrator", "robot"), "X-User-Id": user}


@pytest.fixture
async def body(client: httpx.AsyncClient, robot: Headers) -> dict[str, Any]:
    """A stored credential: its keys, its metadata, and where it is handed off."""
    keys = new_body()
    made = await stored(client, robot, **keys)
    return {**keys, **made, "path": f"/v1/credentials/{made['id']}/handoff"}


async def test_the_token_unwraps_to_the_two_keys_once(
    client: httpx.AsyncClient, robot: Headers, body: dict[str, Any], stack: Stack
) -> None:
    handed = await handed_off(client, robot, body["path"])
    lookup = looked_up(stack, handed["wrapping_token"]).json()["data"]
    assert lookup["creation_path"] == handed["creation_path"] == PATH
    assert lookup["creation_ttl"] == 30
    assert pair_in(unwrapped(stack, handed["wrapping_token"])) == f"{body['api_key']}\n{body['secret_key']}"
    assert unwrapped(stack, handed["wrapping_token"]).status_code == 400
    assert looked_up(stack, handed["wrapping_token"]).status_code == 400


async def test_the_answer_says_whose_it_is_and_is_kept_by_no_cache(
    client: httpx.AsyncClient, robot: Headers, body: dict[str, Any], stack: Stack
) -> None:
    answer = await client.post(body["path"], headers=robot)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    shown = answer.json()
    assert {name: shown[name] for name in shown if name not in ("handoff_id", "wrapping_token", "expires_at")} == {
        "creation_path": PATH,
        "vault_addr": stack.vault_addr,
        "vault_namespace": None,
        "credential_type": "alpaca",
        "account_type": None,
        "secret_version": 1,
    }
    UUID(shown["handoff_id"])


async def test_a_polygon_credential_is_handed_off_by_its_own_key(
    client: httpx.AsyncClient, robot: Headers, stack: Stack
) -> None:
    keys = new_body(credential_type="polygon", secret_key="")
    made = await stored(client, robot, **keys)
    handed = await handed_off(client, robot, f"/v1/credentials/{made['id']}/handoff")
    assert handed["creation_path"] == "transit/decrypt/credentials-polygon"
    assert pair_in(unwrapped(stack, handed["wrapping_token"])) == f"{keys['api_key']}\n"


@pytest.mark.parametrize("ttl", [1, 7, 300])
async def test_it_lasts_as_long_as_asked_by_vaults_clock(
    ttl: int, client: httpx.AsyncClient, robot: Headers, body: dict[str, Any], stack: Stack
) -> None:
    handed = await handed_off(client, robot, body["path"], ttl=ttl)
    lookup = looked_up(stack, handed["wrapping_token"])
    if lookup.status_code == 400:  # a second may be over
        assert ttl == 1
        return
    told = lookup.json()["data"]
    assert told["creation_ttl"] == ttl
    made_at = datetime.fromisoformat(told["creation_time"])
    # Vault notes the two times of one token a moment apart.
    assert abs(datetime.fromisoformat(handed["expires_at"]) - made_at - timedelta(seconds=ttl)) < timedelta(seconds=1)


async def test_after_its_time_it_is_worth_nothing(
    client: httpx.AsyncClient, robot: Headers, body: dict[str, Any], stack: Stack
) -> None:
    handed = await handed_off(client, robot, body["path"], ttl=1)
    async with asyncio.timeout(60):
        while looked_up(stack, handed["wrapping_token"]).status_code == 200:  # noqa: ASYNC110 - Vault tells nobody
            await asyncio.sleep(0.1)
    answer = unwrapped(stack, handed["wrapping_token"])
    assert answer.status_code == 400
    assert body["api_key"] not in answer.text


@pytest.mark.parametrize("ttl", [0, -1, 301, 301.0, 10**30, 1e300, 1.5, "30", "30s", True, [30], {}])
async def test_a_time_that_may_not_be_is_refused_by_its_name_before_vault_is_asked(
    ttl: Any, client: httpx.AsyncClient, robot: Headers, body: dict[str, Any], stack: Stack
) -> None:
    log = AuditLog(stack)
    answer = await client.post(body["path"], headers=robot, json={"ttl": ttl})
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [each["field"] for each in answer.json()["errors"]] == ["ttl"]
    assert log.decryptions() == []


@pytest.mark.parametrize("sent", [b'{"ttl": 5, "ttl": 6}', b'{"ttl": 5, "wrap": false}', b"[]", b"{", b"30"])
async def test_another_body_is_refused(
    sent: bytes, client: httpx.AsyncClient, robot: Headers, body: dict[str, Any]
) -> None:
    answer = await client.post(body["path"], headers={**robot, "Content-Type": "application/json"}, content=sent)
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [each["field"] for each in answer.json()["errors"]] == ["body"]


async def test_null_and_nothing_at_all_are_the_settings_time(
    robot: Headers, body: dict[str, Any], stack: Stack
) -> None:
    async with client_on(stack.settings(handoff_seconds=44)) as client:
        for sent in ({}, {"ttl": None}):
            answer = await client.post(body["path"], headers=robot, json=sent)
            assert looked_up(stack, answer.json()["wrapping_token"]).json()["data"]["creation_ttl"] == 44


async def test_orchestrators_are_told_where_vault_is_for_them(
    robot: Headers, body: dict[str, Any], stack: Stack
) -> None:
    async with client_on(stack.settings(handoff_vault_addr="https://vault.example:8200")) as client:
        assert (await handed_off(client, robot, body["path"]))["vault_addr"] == "https://vault.example:8200"


async def test_one_id_joins_the_event_and_vaults_audit_entry(
    client: httpx.AsyncClient, robot: Headers, body: dict[str, Any], stack: Stack, owner_conn: Connection, user: str
) -> None:
    log = AuditLog(stack)
    handed = await handed_off(client, robot, body["path"])
    (event,) = await events_of(owner_conn, body["id"])
    assert event == {
        "outcome": "granted",
        "reason": None,
        "actor": "orchestrator:robot",
        "acting_user": user,
        "user_id": user,
        "account_id": UUID(body["account_id"]),
        "batch_id": UUID(handed["handoff_id"]),
        "transit_key": "credentials-alpaca",
        "transit_key_version": 1,
    }
    assert log.decryptions() == [handed["handoff_id"]]
    (entry,) = [each for each in log.entries() if each["request"]["path"] == PATH]
    assert entry["request"]["wrap_ttl"] == 30


async def test_the_last_secret_is_what_is_handed_off(
    client: httpx.AsyncClient, robot: Headers, body: dict[str, Any], stack: Stack
) -> None:
    """A ciphertext that is remembered from before an update is not."""
    await handed_off(client, robot, body["path"])
    keys = {name: new_body()[name] for name in ("api_key", "secret_key")}
    await client.patch(f"/v1/credentials/{body['id']}", json=keys, headers=robot)
    handed = await handed_off(client, robot, body["path"])
    assert handed["secret_version"] == 2
    assert pair_in(unwrapped(stack, handed["wrapping_token"])) == f"{keys['api_key']}\n{keys['secret_key']}"


async def test_many_at_once_each_get_their_own(client: httpx.AsyncClient, robot: Headers, stack: Stack) -> None:
    bodies = [new_body() for _ in range(40)]
    made = await asyncio.gather(*(stored(client, robot, **each) for each in bodies))
    handed = await asyncio.gather(
        *(handed_off(client, robot, f"/v1/credentials/{each['id']}/handoff") for each in made)
    )
    for each, token in zip(bodies, handed, strict=True):
        assert pair_in(unwrapped(stack, token["wrapping_token"])) == f"{each['api_key']}\n{each['secret_key']}"
    assert len({each["handoff_id"] for each in handed}) == len({each["wrapping_token"] for each in handed}) == 40


@pytest.fixture
def operators(bearer: Callable[..., Headers]) -> Headers:
    return bearer("operator", "olga")


async def _disabled(client: httpx.AsyncClient, robot: Headers, _operators: Headers, body: dict[str, Any]) -> None:
    await client.patch(f"/v1/credentials/{body['id']}", json={"is_active": False}, headers=robot)


async def _suspended_user(client: httpx.AsyncClient, robot: Headers, operators: Headers, _: dict[str, Any]) -> None:
    answer = await client.post(f"/v1/users/{robot['X-User-Id']}/suspension", headers=operators)
    assert answer.is_success


async def _suspended_account(client: httpx.AsyncClient, _robot: Headers, ops: Headers, body: dict[str, Any]) -> None:
    assert (await client.post(f"/v1/accounts/{body['account_id']}/suspension", headers=ops)).is_success


async def _deleted(client: httpx.AsyncClient, robot: Headers, _operators: Headers, body: dict[str, Any]) -> None:
    await client.delete(f"/v1/credentials/{body['id']}", headers=robot)


async def _nothing(*_: object) -> None:
    return None


DENIALS = [
    (_disabled, {}, (409, "credential-inactive"), "inactive"),
    (_suspended_user, {}, (403, "suspended"), "suspended"),
    (_suspended_account, {}, (403, "suspended"), "suspended"),
    (_deleted, {}, (404, "credential-not-found"), "not_found"),
    (_nothing, {"X-Require-Account-Type": "paper"}, (403, "account-type-refused"), "account_type"),
]


@pytest.mark.parametrize(("change", "headers", "told", "reason"), DENIALS, ids=[each[0].__name__ for each in DENIALS])
async def test_what_is_out_lasts_and_the_next_one_is_denied(
    change: Callable[..., Any],
    headers: Headers,
    told: tuple[int, str],
    reason: str,
    client: httpx.AsyncClient,
    robot: Headers,
    operators: Headers,
    body: dict[str, Any],
    stack: Stack,
    owner_conn: Connection,
) -> None:
    out = await handed_off(client, robot, body["path"])
    await change(client, robot, operators, body)
    log = AuditLog(stack)
    answer = await client.post(body["path"], headers={**robot, **headers})
    assert problem_of(answer)[:2] == told
    assert log.decryptions() == []
    assert [(each["outcome"], each["reason"]) for each in await events_of(owner_conn, body["id"])] == [
        ("granted", None),
        ("denied", reason),
    ]
    assert pair_in(unwrapped(stack, out["wrapping_token"])) == f"{body['api_key']}\n{body['secret_key']}"


async def test_an_id_that_is_none_is_refused_and_recorded(
    client: httpx.AsyncClient, robot: Headers, owner_conn: Connection, user: str
) -> None:
    answer = await client.post("/v1/credentials/nonsense/handoff", headers=robot)
    assert problem_of(answer)[:2] == (422, "invalid-input")
    row = await owner_conn.fetchrow(
        "SELECT action, outcome, reason FROM credential_events WHERE acting_user = $1", user
    )
    assert row is not None
    assert tuple(row) == ("handoff", "denied", "not_a_uuid")
