"""One credential's life over REST, on real servers: each answer, and what has come of it when the keys are opened."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from service.composition import Runtime
from service.errors import CredentialInactive, CredentialNotFound
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.stored import opened, some_user
from tests.support import Stack, canary
from tests.written import Connection


class Caller:
    """A user of this test's own."""

    def __init__(self, bearer: Callable[..., Headers]) -> None:
        self.name = some_user()
        self.headers = bearer("user", self.name)

    async def keys(self, runtime: Runtime, credential_id: str) -> tuple[str, str]:
        """What the credential opens to."""
        return await opened(runtime, UUID(credential_id), self.name)


@pytest.fixture
def user(bearer: Callable[..., Headers]) -> Caller:
    return Caller(bearer)


@pytest.fixture
async def other(bearer: Callable[..., Headers]) -> Caller:
    return Caller(bearer)


# --- store, get ---------------------------------------------------------------------------------------------------


async def test_what_was_stored_is_where_location_says_and_opens_to_the_keys(
    client: httpx.AsyncClient, user: Caller, runtime: Runtime
) -> None:
    body = new_body()
    made = await client.post("/v1/credentials", json=body, headers=user.headers)
    assert made.status_code == 201
    found = await client.get(made.headers["location"], headers=user.headers)
    assert (found.status_code, found.json()) == (200, made.json())
    assert found.headers["etag"] == made.headers["etag"] == '"1"'
    assert found.headers["cache-control"] == "no-store"
    shown = found.json()
    assert (shown["account_id"], shown["credential_type"]) == (body["account_id"], "alpaca")
    assert (shown["is_active"], shown["validation_state"], shown["secret_version"]) == (True, "unvalidated", 1)
    assert not {body["api_key"], body["secret_key"]} & {str(value) for value in shown.values()}
    assert await user.keys(runtime, shown["id"]) == (body["api_key"], body["secret_key"])


async def test_polygons_secret_may_be_empty_and_alpacas_not(client: httpx.AsyncClient, user: Caller) -> None:
    assert (await stored(client, user.headers, credential_type="polygon", secret_key=""))["is_active"]
    refused = await client.post("/v1/credentials", json=new_body(secret_key=""), headers=user.headers)
    assert problem_of(refused)[:2] == (422, "invalid-input")
    assert [error["field"] for error in refused.json()["errors"]] == ["secret_key"]


async def test_an_orchestrator_stores_for_the_user_it_names(
    client: httpx.AsyncClient, user: Caller, bearer: Callable[..., Headers], runtime: Runtime
) -> None:
    body = new_body()
    robot = {**bearer("orchestrator", "robot"), "X-User-Id": user.name}
    made = await client.post("/v1/credentials", json=body, headers=robot)
    assert made.status_code == 201
    assert (await client.get(made.headers["location"], headers=user.headers)).status_code == 200
    assert await user.keys(runtime, made.json()["id"]) == (body["api_key"], body["secret_key"])


# --- patch, rollback, delete --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [("api_key",), ("secret_key",), ("api_key", "secret_key")])
async def test_a_patch_changes_the_keys_that_it_gives_and_no_others(
    changed: tuple[str, ...], client: httpx.AsyncClient, user: Caller, runtime: Runtime
) -> None:
    body = new_body()
    made = await stored(client, user.headers, **body)
    patch = {name: canary() for name in changed}
    answer = await client.patch(f"/v1/credentials/{made['id']}", json=patch, headers=user.headers)
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert (answer.json()["secret_version"], answer.json()["can_roll_back"]) == (2, True)
    expected = body | patch
    assert await user.keys(runtime, made["id"]) == (expected["api_key"], expected["secret_key"])


async def test_a_disabled_credential_does_not_open_until_it_is_enabled(
    client: httpx.AsyncClient, user: Caller, runtime: Runtime
) -> None:
    made = await stored(client, user.headers)
    path = f"/v1/credentials/{made['id']}"
    disabled = await client.patch(path, json={"is_active": False}, headers=user.headers)
    assert (disabled.json()["is_active"], disabled.headers["etag"]) == (False, '"2"')
    with pytest.raises(CredentialInactive):
        await user.keys(runtime, made["id"])
    assert (await client.get(path, headers=user.headers)).json()["is_active"] is False
    enabled = await client.patch(path, json={"is_active": True}, headers=user.headers)
    assert (enabled.json()["is_active"], enabled.headers["etag"]) == (True, '"3"')
    await user.keys(runtime, made["id"])


async def test_new_keys_for_a_disabled_credential_leave_it_disabled(
    client: httpx.AsyncClient, user: Caller, runtime: Runtime
) -> None:
    made = await stored(client, user.headers)
    path = f"/v1/credentials/{made['id']}"
    await client.patch(path, json={"is_active": False}, headers=user.headers)
    answer = await client.patch(path, json={"secret_key": canary()}, headers=user.headers)
    assert (answer.status_code, answer.json()["is_active"]) == (200, False)
    with pytest.raises(CredentialInactive):
        await user.keys(runtime, made["id"])


async def test_a_rollback_brings_the_keys_before_back_as_a_new_version(
    client: httpx.AsyncClient, user: Caller, runtime: Runtime
) -> None:
    body = new_body()
    made = await stored(client, user.headers, **body)
    path = f"/v1/credentials/{made['id']}"
    nothing = await client.post(f"{path}/rollback", headers=user.headers)
    assert problem_of(nothing)[:2] == (409, "nothing-to-roll-back")
    await client.patch(path, json={"api_key": canary(), "secret_key": canary()}, headers=user.headers)
    back = await client.post(f"{path}/rollback", headers=user.headers)
    assert (back.status_code, back.headers["etag"], back.json()["secret_version"]) == (200, '"3"', 3)
    assert await user.keys(runtime, made["id"]) == (body["api_key"], body["secret_key"])


async def test_what_is_deleted_is_404_on_every_route_and_stays_in_the_history(
    client: httpx.AsyncClient, user: Caller, runtime: Runtime
) -> None:
    made = await stored(client, user.headers)
    path = f"/v1/credentials/{made['id']}"
    gone = await client.delete(path, headers=user.headers)
    assert (gone.status_code, gone.content) == (204, b"")
    for answer in (
        await client.get(path, headers=user.headers),
        await client.patch(path, json={"is_active": True}, headers=user.headers),
        await client.delete(path, headers=user.headers),
        await client.post(f"{path}/rollback", headers=user.headers),
        await client.post(f"{path}/validate", headers=user.headers),
    ):
        assert problem_of(answer)[:2] == (404, "credential-not-found")
    with pytest.raises(CredentialNotFound):
        await user.keys(runtime, made["id"])
    events = (await client.get(f"{path}/events", headers=user.headers)).json()["events"]
    assert [(event["action"], event["outcome"]) for event in events] == [("delete", "done"), ("store", "done")]


# --- If-Match -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("if_match", "status"),
    [
        (['"2"'], 200),
        (["*"], 200),
        (['"1", "2"'], 200),
        (['"9"', '"2"'], 200),
        (['"1"'], 412),
        (['"3"'], 412),
        (['W/"2"'], 412),
        (['W/"2", "1"'], 412),
        (['"02"'], 412),
        (['"not-one-of-ours"'], 412),
        ([], 200),
        (["2"], 422),
        ([""], 422),
        (['"2'], 422),
        (['*, "2"'], 422),
    ],
    ids=str,
)
async def test_a_change_is_made_only_at_a_version_that_if_match_names(
    if_match: list[str], status: int, client: httpx.AsyncClient, user: Caller
) -> None:
    async def at_version_2() -> str:
        made = await stored(client, user.headers)
        path = f"/v1/credentials/{made['id']}"
        assert (await client.patch(path, json={"api_key": canary()}, headers=user.headers)).headers["etag"] == '"2"'
        return path

    headers = [*user.headers.items(), *(("If-Match", value) for value in if_match)]
    for method, suffix, body in (
        ("PATCH", "", {"is_active": False}),
        ("PATCH", "", {"secret_key": canary()}),
        ("POST", "/rollback", None),
        ("DELETE", "", None),
    ):
        path = await at_version_2()
        answer = await client.request(method, path + suffix, json=body, headers=headers)
        assert answer.status_code == (204 if (method, status) == ("DELETE", 200) else status), answer.text
        after = await client.get(path, headers=user.headers)
        if status != 200:
            assert after.headers["etag"] == '"2"'
            assert problem_of(answer)[1] == {412: "precondition-failed", 422: "invalid-input"}[status]
        elif method == "DELETE":
            assert after.status_code == 404
        else:
            assert after.headers["etag"] == answer.headers["etag"] == '"3"'


async def test_of_changes_at_once_from_one_version_one_wins(
    client: httpx.AsyncClient, user: Caller, runtime: Runtime
) -> None:
    made = await stored(client, user.headers)
    path = f"/v1/credentials/{made['id']}"
    pairs = [(canary(), canary()) for _ in range(4)]

    async def change(pair: tuple[str, str]) -> int:
        body = {"api_key": pair[0], "secret_key": pair[1]}
        return (await client.patch(path, json=body, headers={**user.headers, "If-Match": '"1"'})).status_code

    statuses = await asyncio.gather(*map(change, pairs))
    assert sorted(statuses)[0] == 200
    assert set(sorted(statuses)[1:]) <= {409, 412}
    assert await user.keys(runtime, made["id"]) == pairs[statuses.index(200)]


async def test_where_settings_require_if_match_its_absence_is_428(stack: Stack, user: Caller) -> None:
    async with client_on(stack.settings(require_if_match=True)) as client:
        made = await stored(client, user.headers)
        path = f"/v1/credentials/{made['id']}"
        for answer in (
            await client.patch(path, json={"is_active": False}, headers=user.headers),
            await client.post(f"{path}/rollback", headers=user.headers),
            await client.delete(path, headers=user.headers),
        ):
            assert problem_of(answer) == (428, "precondition-required", None)
        assert (await client.get(path, headers=user.headers)).headers["etag"] == '"1"'
        allowed = await client.delete(path, headers={**user.headers, "If-Match": '"1"'})
        assert allowed.status_code == 204


# --- Idempotency-Key ----------------------------------------------------------------------------------------------


async def store_with(client: httpx.AsyncClient, headers: Headers, key: str, body: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/credentials", json=body, headers={**headers, "Idempotency-Key": key})


async def test_the_same_key_and_body_get_the_same_answer_and_store_once(
    client: httpx.AsyncClient, user: Caller, owner_conn: Connection
) -> None:
    key, body = str(uuid4()), new_body()
    first = await store_with(client, user.headers, key, body)
    reordered = dict(reversed(body.items()))
    for again in (
        await store_with(client, user.headers, key, body),
        await store_with(client, user.headers, key, reordered),
    ):
        assert (again.status_code, again.content) == (201, first.content)
        for name in ("location", "etag", "content-type"):
            assert again.headers[name] == first.headers[name]
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE user_id = $1", user.name) == 1


@pytest.mark.parametrize("field", ["account_id", "credential_type", "api_key", "secret_key"])
async def test_the_same_key_with_another_body_is_422_and_stores_nothing(
    field: str, client: httpx.AsyncClient, user: Caller, owner_conn: Connection
) -> None:
    key, body = str(uuid4()), new_body()
    await store_with(client, user.headers, key, body)
    changed = body | {field: new_body(credential_type="polygon")[field]}
    assert problem_of(await store_with(client, user.headers, key, changed))[:2] == (422, "idempotency-mismatch")
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE user_id = $1", user.name) == 1


async def test_duplicates_sent_at_once_store_one_and_get_one_answer(
    client: httpx.AsyncClient, user: Caller, owner_conn: Connection, stack: Stack
) -> None:
    key, body = str(uuid4()), new_body()
    answers = await asyncio.gather(*(store_with(client, user.headers, key, body) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == len({answer.headers["etag"] for answer in answers}) == 1
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE user_id = $1", user.name) == 1
    left = "SELECT count(*) FROM write_intents WHERE kv_path LIKE $1"
    assert await owner_conn.fetchval(left, f"{body['account_id']}/%") == 0
    in_kv = stack.vault("LIST", f"credentials/metadata/{body['account_id']}/").json()["data"]["keys"]
    assert in_kv == [answers[0].json()["id"]]


async def test_a_key_is_each_callers_own_and_each_users(
    client: httpx.AsyncClient, user: Caller, other: Caller, bearer: Callable[..., Headers]
) -> None:
    key, body = str(uuid4()), new_body()
    robot = bearer("orchestrator", "robot")
    callers = [
        user.headers,
        other.headers,
        {**robot, "X-User-Id": user.name},
        {**robot, "X-User-Id": other.name},
        {**bearer("orchestrator", "robot-2"), "X-User-Id": user.name},
    ]
    ids = [(await store_with(client, caller, key, body)).json()["id"] for caller in callers]
    assert len(set(ids)) == len(callers)


async def test_what_was_stored_under_a_key_and_deleted_is_not_stored_again(
    client: httpx.AsyncClient, user: Caller
) -> None:
    key, body = str(uuid4()), new_body()
    made = await store_with(client, user.headers, key, body)
    await client.delete(made.headers["location"], headers=user.headers)
    assert problem_of(await store_with(client, user.headers, key, body))[:2] == (409, "idempotent-result-gone")


async def test_an_expired_key_is_free_again(client: httpx.AsyncClient, user: Caller, owner_conn: Connection) -> None:
    key = str(uuid4())
    first = await store_with(client, user.headers, key, new_body())
    await owner_conn.execute("UPDATE idempotency_keys SET expires_at = now() WHERE key = $1", key)
    second = await store_with(client, user.headers, key, new_body())
    assert (first.status_code, second.status_code) == (201, 201)


@pytest.mark.parametrize("keys", [[""], ["a b"], ["é"], ["x" * 256], ["one", "two"]], ids=str)
async def test_a_key_that_is_none_is_422(keys: list[str], client: httpx.AsyncClient, user: Caller) -> None:
    headers = [*user.headers.items(), *(("Idempotency-Key", key.encode()) for key in keys)]
    answer = await client.post("/v1/credentials", json=new_body(), headers=headers)  # type: ignore[arg-type]  # bytes in one, text in the other
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
