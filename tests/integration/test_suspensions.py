"""Suspending over REST: whom the address names, what is told, what is recorded. What it stops is in the next module."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from service.postgres.queries import SQL
from tests.rest import Headers, client_on, problem_of, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection


@pytest.fixture(scope="module")
async def rest(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with client_on(stack.settings()) as client:
        yield client


@pytest.fixture
def operator(bearer: Callable[..., Headers]) -> Headers:
    return bearer("operator", "olga")


def at_user(user_id: str) -> str:
    """Percent-encoded, dots too: a name of one or two of them would be taken for a step up the path."""
    return f"/v1/users/{quote(user_id, safe='').replace('.', '%2E')}/suspension"


def at_account(account_id: object) -> str:
    return f"/v1/accounts/{account_id}/suspension"


async def events_of(conn: Connection, column: str, whom: object) -> list[tuple[Any, ...]]:
    rows = await conn.fetch(
        "SELECT action, outcome, actor, acting_user, reason FROM credential_events"
        f" WHERE {column} = $1 AND credential_id IS NULL ORDER BY at, id",
        whom,
    )
    return [tuple(row) for row in rows]


ODD = [
    "{}",
    "{}/b",
    "/{}",
    "{}/",
    "{}/../b",
    "{}/suspension",
    "{} b",
    "{}%2Fb",
    "{}?b#c",
    "{}+b",
    "{}é日本",
    "{}..",
    "{}@x.y",
]


@pytest.mark.parametrize("name", ODD)
async def test_whatever_a_user_is_called_it_is_that_user_who_is_suspended(
    name: str, rest: httpx.AsyncClient, operator: Headers, owner_conn: Connection
) -> None:
    user_id = name.format(some_user())
    assert problem_of(await rest.get(at_user(user_id), headers=operator))[:2] == (404, "not-suspended")
    made = await rest.post(at_user(user_id), json={"reason": "stolen laptop"}, headers=operator)
    assert made.status_code == 200, made.text
    told = made.json()
    assert (told["user_id"], told["account_id"], told["reason"]) == (user_id, None, "stolen laptop")
    assert (told["suspended_by"], made.headers["cache-control"]) == ("operator:olga", "no-store")
    assert await owner_conn.fetchval("SELECT count(*) FROM suspensions WHERE user_id = $1", user_id) == 1
    assert (await rest.get(at_user(user_id), headers=operator)).json() == told
    lifted = await rest.delete(at_user(user_id), headers=operator)
    assert (lifted.status_code, lifted.content) == (204, b"")
    assert problem_of(await rest.get(at_user(user_id), headers=operator))[:2] == (404, "not-suspended")
    assert problem_of(await rest.delete(at_user(user_id), headers=operator))[:2] == (404, "not-suspended")


async def test_a_user_who_is_called_two_dots_can_be_suspended(rest: httpx.AsyncClient, operator: Headers) -> None:
    for name in (".", ".."):
        assert (await rest.post(at_user(name), headers=operator)).json()["user_id"] == name
        assert (await rest.delete(at_user(name), headers=operator)).status_code == 204


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("name", ["", "%00", "%1B%5B2J", "%FF", "%ED%A0%80", "%20bob", "b%E2%80%8Bob", "x" * 600])
async def test_what_can_be_no_users_name_is_refused_and_not_repeated(
    method: str, name: str, rest: httpx.AsyncClient, operator: Headers
) -> None:
    answer = await rest.request(method, f"/v1/users/{name}/suspension", headers=operator)
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [problem["field"] for problem in answer.json()["errors"]] == ["user_id"]
    assert not name or name not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/a/b/suspension",
        "/v1/users//a/suspension",
        "/v1/users/suspension",
        "/v1/users%2Fa/b/suspension",
        "/v1/users%2Fa/suspension",
        "/v1%2Fusers/a/b/suspension",
        "/v1/users/a%2Fsuspension",
        "/v1/users/a/suspensio%6E",
        "/v1/users/a/suspension%0A",
        "/v1/users/a%0Ab/suspension",
        "/v1/users/a/suspension/",
    ],
)
async def test_an_address_that_is_not_to_the_letter_that_of_a_user_names_nobody(
    path: str, rest: httpx.AsyncClient, operator: Headers
) -> None:
    assert problem_of(await rest.post(path, headers=operator))[:2] == (404, "no-such-resource")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("wrong", ["1", "%7B{}%7D", "urn:uuid:{}", "{}0", "{}%20"])
async def test_what_is_no_accounts_id_is_refused_and_not_repeated(
    method: str, wrong: str, rest: httpx.AsyncClient, operator: Headers
) -> None:
    account_id = str(uuid4())
    answer = await rest.request(method, at_account(wrong.format(account_id)), headers=operator)
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [problem["field"] for problem in answer.json()["errors"]] == ["account_id"]
    assert account_id not in answer.text


BAD: dict[str, Any] = {
    "empty": {"reason": ""},
    "too long": {"reason": "canary" * 50},
    "a control character": {"reason": "canary\n"},
    "an escape": {"reason": "\x1b[2Jcanary"},
    "a number": {"reason": 4711},
    "an object": {"reason": {"canary": 1}},
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
async def test_a_reason_that_is_none_is_refused_by_name_and_nobody_is_suspended(
    body: Any, rest: httpx.AsyncClient, operator: Headers
) -> None:
    user_id = some_user()
    answer = await rest.post(at_user(user_id), json=body, headers=operator)
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [problem["field"] for problem in answer.json()["errors"]] == ["reason"]
    assert "canary" not in answer.text
    assert "4711" not in answer.text
    assert (await rest.get(at_user(user_id), headers=operator)).status_code == 404


async def test_a_body_with_anything_else_suspends_nobody(rest: httpx.AsyncClient, operator: Headers) -> None:
    user_id = some_user()
    for body, content_type, status in (
        (b'{"until": "tomorrow"}', "application/json", 422),
        (b'{"reason": "\\ud800"}', "application/json", 422),
        (b"[]", "application/json", 422),
        (b"{", "application/json", 422),
        (b"reason=x", "application/x-www-form-urlencoded", 415),
        (b'{"reason": "' + b"x" * 20_000 + b'"}', "application/json", 413),
    ):
        headers = {**operator, "Content-Type": content_type}
        assert (await rest.post(at_user(user_id), content=body, headers=headers)).status_code == status
    assert (await rest.post(at_user(user_id) + "?force=1", headers=operator)).status_code == 422
    assert (await rest.get(at_user(user_id), headers=operator)).status_code == 404


async def test_a_reason_may_be_left_out_and_so_may_the_body(rest: httpx.AsyncClient, operator: Headers) -> None:
    ways: tuple[dict[str, Any], ...] = ({}, {"json": {}}, {"json": {"reason": None}})
    for given in ways:
        assert (await rest.post(at_user(some_user()), headers=operator, **given)).json()["reason"] is None
    # As some clients send it: a type, and nothing of it.
    typed = {**operator, "Content-Type": "application/octet-stream"}
    assert (await rest.post(at_user(some_user()), headers=typed)).json()["reason"] is None


async def test_a_second_suspension_is_the_first_one_whoever_asks_and_one_event(
    rest: httpx.AsyncClient, operator: Headers, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    user_id = some_user()
    first = (await rest.post(at_user(user_id), json={"reason": "one"}, headers=operator)).json()
    second = await rest.post(at_user(user_id), json={"reason": "two"}, headers=bearer("operator", "oscar"))
    assert (second.status_code, second.json()) == (200, first)
    assert (await rest.delete(at_user(user_id), headers=bearer("operator", "oscar"))).status_code == 204
    third = (await rest.post(at_user(user_id), headers=operator)).json()
    assert third["suspended_at"] > first["suspended_at"]
    assert await events_of(owner_conn, "user_id", user_id) == [
        ("suspend", "done", "operator:olga", None, "one"),
        ("resume", "done", "operator:oscar", None, None),
        ("suspend", "done", "operator:olga", None, None),
    ]


async def test_a_suspension_says_how_many_credentials_it_is_about_and_a_mistyped_one_says_0(
    rest: httpx.AsyncClient, operator: Headers, bearer: Callable[..., Headers]
) -> None:
    user_id, other, account_id = some_user(), some_user(), str(uuid4())
    for owner, given in ((user_id, {}), (user_id, {"account_id": account_id}), (other, {"account_id": account_id})):
        made = await stored(rest, bearer("user", owner), **given)
    await rest.patch(f"/v1/credentials/{made['id']}", json={"is_active": False}, headers=bearer("user", other))
    about = {at_user(user_id): 2, at_user(other): 1, at_account(account_id): 2, at_user(f"{user_id}x"): 0}
    about[at_account(uuid4())] = 0
    for path, credentials in about.items():
        for method in ("POST", "POST", "GET"):  # when it is made, and when it is there
            assert (await rest.request(method, path, headers=operator)).json()["credentials"] == credentials
    listed = (await rest.get("/v1/suspensions?limit=5", headers=operator)).json()["suspensions"]
    assert [each["credentials"] for each in listed] == list(about.values())[::-1]


async def test_a_suspension_waits_for_nobody_who_keeps_the_credentials_to_themselves(
    rest: httpx.AsyncClient, operator: Headers, owner_conn: Connection
) -> None:
    """A migration, say, or what queues behind a backup: then it can't be counted, and is in force all the same."""
    user_id = some_user()
    async with owner_conn.transaction():
        await owner_conn.execute("LOCK TABLE credentials")
        for method in ("POST", "GET"):
            answer = await rest.request(method, at_user(user_id), headers=operator)
            assert (answer.status_code, answer.json()["credentials"]) == (200, None)
        assert await owner_conn.fetchval("SELECT count(*) FROM suspensions WHERE user_id = $1", user_id) == 1
        listed = (await rest.get("/v1/suspensions?limit=1", headers=operator)).json()["suspensions"]
        assert [(each["user_id"], each["credentials"]) for each in listed] == [(user_id, None)]
    assert (await rest.get(at_user(user_id), headers=operator)).json()["credentials"] == 0


async def test_of_very_many_credentials_only_so_many_are_counted(
    rest: httpx.AsyncClient, operator: Headers, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    user_id, account_id = some_user(), str(uuid4())
    made = await stored(rest, bearer("user", user_id), account_id=account_id)
    found = await owner_conn.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'credentials'"
    )
    columns = [row["column_name"] for row in found if row["column_name"] != "id"]
    copied = owner_conn.transaction()
    await copied.start()
    try:
        # Rows that fit nothing in Vault: only counted, and gone before anybody looks for what they are about.
        await owner_conn.execute(
            f"INSERT INTO credentials (id, {', '.join(columns)})"
            f" SELECT gen_random_uuid(), {', '.join(columns)} FROM credentials, generate_series(1, 1200)"
            " WHERE id = $1::text::uuid",
            made["id"],
        )
        told = await owner_conn.fetch(SQL["count_suspended"], [user_id, None, "nobody"], [None, account_id, None])
    finally:
        await copied.rollback()
    assert [row["credentials"] for row in told] == [1001, 1001, 0]


async def test_many_suspensions_at_once_are_one(
    rest: httpx.AsyncClient, operator: Headers, owner_conn: Connection
) -> None:
    account_id = uuid4()
    answers = await asyncio.gather(*(rest.post(at_account(account_id), headers=operator) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    lifted = await asyncio.gather(*(rest.delete(at_account(account_id), headers=operator) for _ in range(5)))
    assert sorted(answer.status_code for answer in lifted) == [204, 404, 404, 404, 404]
    events = await events_of(owner_conn, "account_id", account_id)
    assert [event[0] for event in events] == ["suspend", "resume"]


async def test_suspending_and_lifting_at_once_always_ends_in_one_or_the_other(
    rest: httpx.AsyncClient, operator: Headers, owner_conn: Connection
) -> None:
    user_id = some_user()
    for _ in range(5):
        answers = await asyncio.gather(
            *(rest.post(at_user(user_id), headers=operator) for _ in range(6)),
            *(rest.delete(at_user(user_id), headers=operator) for _ in range(6)),
        )
        assert {answer.status_code for answer in answers} <= {200, 204, 404, 409}
    events = [event[0] for event in await events_of(owner_conn, "user_id", user_id)]
    assert events == ["suspend", "resume"] * (len(events) // 2) + ["suspend"] * (len(events) % 2)
    in_force = (await rest.get(at_user(user_id), headers=operator)).status_code == 200
    assert in_force == bool(len(events) % 2)


async def test_what_is_in_force_is_listed_newest_first_a_page_at_a_time(
    rest: httpx.AsyncClient, operator: Headers, bearer: Callable[..., Headers]
) -> None:
    made = [at_user(some_user()) if number % 2 else at_account(uuid4()) for number in range(5)]
    shown = [(await rest.post(path, headers=operator)).json() for path in made]
    lifted = shown.pop(2)
    await rest.delete(made[2], headers=operator)
    listed: list[dict[str, Any]] = []
    url: str | None = "/v1/suspensions?limit=2"
    while url is not None:
        answer = await rest.get(url, headers=bearer("auditor", "ada"))
        page = answer.json()
        assert (page["status"], page["count"]) == ("success", len(page["suspensions"]))
        assert page["count"] <= 2
        listed += page["suspensions"]
        url = answer.links["next"]["url"] if "next" in answer.links else None
    assert [each for each in listed if each in shown] == shown[::-1]
    assert lifted not in listed
    assert [each["suspended_at"] for each in listed] == sorted((each["suspended_at"] for each in listed), reverse=True)
    assert len(listed) == len({str(each) for each in listed})


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "cursor=canary", "query=canary"])
async def test_a_list_asked_for_wrongly_says_what_is_wrong(
    query: str, rest: httpx.AsyncClient, operator: Headers
) -> None:
    answer = await rest.get(f"/v1/suspensions?{query}", headers=operator)
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [problem["field"] for problem in answer.json()["errors"]] == [query.partition("=")[0]]
    assert "canary" not in answer.text.replace(query.partition("=")[0], "")


async def test_auditors_see_who_suspended_whom_and_users_do_not(
    rest: httpx.AsyncClient, operator: Headers, bearer: Callable[..., Headers]
) -> None:
    user_id = some_user()
    await rest.post(at_user(user_id), json={"reason": "told to nobody else"}, headers=operator)
    audited = await rest.get(f"/v1/events?user={user_id}", headers=bearer("auditor", "ada"))
    (event,) = audited.json()["events"]
    assert (event["action"], event["actor"], event["reason"]) == ("suspend", "operator:olga", "told to nobody else")
    assert event["request_id"]
    own = await rest.get("/v1/events", headers=bearer("user", user_id))
    assert own.json()["events"] == []
