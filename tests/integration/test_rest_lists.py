"""Lists over REST: filters, and pages that stay whole while rows come and go between them."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.doubles.alpaca import AlpacaDouble
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection


@pytest.fixture(scope="module")
async def rest(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with AlpacaDouble() as alpaca, client_on(stack.settings(alpaca_base_url=alpaca.url)) as client:
        yield client


@pytest.fixture
def user(bearer: Callable[..., Headers]) -> Headers:
    return bearer("user", some_user())


def ids(answer: httpx.Response, kind: str = "credentials") -> list[Any]:
    told = answer.json()
    assert answer.status_code == 200, answer.text
    assert (told["status"], told["count"]) == ("success", len(told[kind]))
    return [each["id"] for each in told[kind]]


async def follow(rest: httpx.AsyncClient, user: Headers, first: str, kind: str = "credentials") -> list[list[Any]]:
    """Every page's ids, by the Link headers."""
    pages, address = [], first
    while True:
        answer = await rest.get(address, headers=user)
        pages.append(ids(answer, kind))
        if "next" not in answer.links:
            return pages
        address = answer.links["next"]["url"]


def flat(pages: list[list[Any]]) -> list[Any]:
    """All pages' ids, in order."""
    return [each for page in pages for each in page]


async def test_each_filter_alone_and_together(rest: httpx.AsyncClient, user: Headers) -> None:
    account = str(uuid4())
    one = await stored(rest, user, account_id=account)
    two = await stored(rest, user, account_id=account, credential_type="polygon", secret_key="")
    three = await stored(rest, user)
    await rest.patch(f"/v1/credentials/{three['id']}", json={"is_active": False}, headers=user)
    for query, expected in (
        ("", [three, two, one]),
        (f"?account_id={account}", [two, one]),
        (f"?account_id={account.upper()}", [two, one]),
        ("?credential_type=alpaca", [three, one]),
        ("?credential_type=neither", []),
        ("?is_active=true", [two, one]),
        ("?is_active=false", [three]),
        (f"?account_id={account}&credential_type=alpaca&is_active=true", [one]),
        (f"?account_id={account}&is_active=false", []),
        (f"?account_id={uuid4()}", []),
    ):
        answer = await rest.get(f"/v1/credentials{query}", headers=user)
        assert ids(answer) == [each["id"] for each in expected], query
        assert "link" not in answer.headers


async def test_credentials_are_found_by_their_age_and_by_never_having_been_tried_or_used(
    rest: httpx.AsyncClient, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    name = some_user()
    user = bearer("user", name)
    old, tried, opened, new = [(await stored(rest, user))["id"] for _ in range(4)]
    await owner_conn.execute("UPDATE credentials SET updated_at = '2020-01-31T12:00:00Z' WHERE id = $1", UUID(old))
    await owner_conn.execute("UPDATE credentials SET last_used_at = now() WHERE id = $1", UUID(opened))
    # Not by trying it: that would be noted as a use too, some time later.
    await owner_conn.execute("UPDATE credentials SET validation_state = 'invalid' WHERE id = $1", UUID(tried))
    for query, expected in (
        ("updated_before=2020-01-31T12:00:00Z", []),
        ("updated_before=2020-01-31T12:00:01Z", [old]),
        ("updated_before=2020-01-31T14:00:01%2B02:00", [old]),
        ("validated=true", [tried]),
        ("validated=false", [new, opened, old]),
        ("used=true", [opened]),
        ("used=false", [new, tried, old]),
        ("used=false&validated=false", [new, old]),
        ("used=false&validated=false&updated_before=2021-01-01T00:00:00Z", [old]),
    ):
        answer = await rest.get(f"/v1/credentials?{query}", headers=user)
        assert ids(answer) == expected, query
    assert flat(await follow(rest, user, "/v1/credentials?limit=1&validated=false")) == [new, opened, old]
    # An auditor finds everybody's.
    everybodys = await rest.get("/v1/credentials?updated_before=2020-02-01T00:00:00Z", headers=bearer("auditor", "a"))
    assert old in ids(everybodys)


async def test_pages_hold_everything_once_newest_first(rest: httpx.AsyncClient, user: Headers) -> None:
    made = [(await stored(rest, user))["id"] for _ in range(7)]
    pages = await follow(rest, user, "/v1/credentials?limit=3")
    assert [len(page) for page in pages] == [3, 3, 1]
    assert flat(pages) == made[::-1]
    assert await follow(rest, user, "/v1/credentials?limit=7") == [made[::-1]]


async def test_a_links_next_page_keeps_the_filters(rest: httpx.AsyncClient, user: Headers) -> None:
    account = str(uuid4())
    wanted = []
    for _ in range(3):
        await stored(rest, user)
        await stored(rest, user, account_id=account, credential_type="polygon", secret_key="")
        disabled = await stored(rest, user, account_id=account)
        await rest.patch(f"/v1/credentials/{disabled['id']}", json={"is_active": False}, headers=user)
        wanted.append((await stored(rest, user, account_id=account))["id"])
    query = f"?limit=1&account_id={account}&credential_type=alpaca&is_active=true"
    assert flat(await follow(rest, user, f"/v1/credentials{query}")) == wanted[::-1]


async def test_pages_are_stable_while_rows_come_and_go(rest: httpx.AsyncClient, user: Headers) -> None:
    """What was there all the time is seen once, whatever is inserted before it or deleted around it."""
    made = [(await stored(rest, user))["id"] for _ in range(9)]
    newest_first = made[::-1]
    first = await rest.get("/v1/credentials?limit=3", headers=user)
    assert ids(first) == newest_first[:3]
    # The last one of the page, on which the cursor stands; one that was seen; one that wasn't; and two new ones.
    for gone in (newest_first[2], newest_first[0], newest_first[4]):
        assert (await rest.delete(f"/v1/credentials/{gone}", headers=user)).status_code == 204
    for _ in range(2):
        await stored(rest, user)
    await rest.patch(f"/v1/credentials/{newest_first[7]}", json={"is_active": False}, headers=user)
    rest_of_it = await follow(rest, user, first.links["next"]["url"])
    assert flat(rest_of_it) == [newest_first[3], *newest_first[5:]]


async def test_rows_of_one_moment_are_each_on_one_page(
    rest: httpx.AsyncClient, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    name = some_user()
    user = bearer("user", name)
    made = {(await stored(rest, user))["id"] for _ in range(5)}
    await owner_conn.execute("UPDATE credentials SET created_at = now() WHERE user_id = $1", name)
    pages = await follow(rest, user, "/v1/credentials?limit=2")
    assert [len(page) for page in pages] == [2, 2, 1]
    assert set(flat(pages)) == made


async def test_a_cursor_is_only_a_place_and_shows_nobody_elses_rows(
    rest: httpx.AsyncClient, user: Headers, bearer: Callable[..., Headers]
) -> None:
    mine = [(await stored(rest, user))["id"] for _ in range(3)]
    theirs = bearer("user", some_user())
    for _ in range(3):
        await stored(rest, theirs)
    link = (await rest.get("/v1/credentials?limit=1", headers=theirs)).links["next"]["url"]
    assert flat(await follow(rest, user, link)) == mine[::-1]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e1", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "query"),
        ("cursor=", "cursor"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%00", "cursor"),
        ("account_id=7", "account_id"),
        ("account_id=%7B6f9619ff-8b86-4011-b42d-00c04fc964ff%7D", "account_id"),
        ("is_active=yes", "is_active"),
        ("is_active=True", "is_active"),
        ("credential_type=%00", "credential_type"),
        ("credential_type=", "credential_type"),
        ("user_id=bob", "query"),
        ("offset=3", "query"),
    ],
)
async def test_a_query_that_is_not_understood_is_refused(
    query: str, field: str, rest: httpx.AsyncClient, user: Headers
) -> None:
    answer = await rest.get(f"/v1/credentials?{query}", headers=user)
    assert problem_of(answer)[:2] == (422, "invalid-input")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_one_lists_cursor_is_not_anothers(rest: httpx.AsyncClient, user: Headers) -> None:
    for _ in range(2):
        await stored(rest, user)
    for one, another in (("/v1/credentials", "/v1/events"), ("/v1/events", "/v1/credentials")):
        link = (await rest.get(f"{one}?limit=1", headers=user)).links["next"]["url"]
        answer = await rest.get(link.replace(one, another), headers=user)
        assert [error["field"] for error in answer.json()["errors"]] == ["cursor"]


# --- events -------------------------------------------------------------------------------------------------------


async def lived(rest: httpx.AsyncClient, user: Headers) -> str:
    """A credential with seven events: Alpaca doesn't know its keys."""
    made = (await stored(rest, user))["id"]
    path = f"/v1/credentials/{made}"
    await rest.patch(path, json={"is_active": False}, headers=user)
    await rest.patch(path, json={"is_active": True}, headers=user)
    await rest.patch(path, json={"api_key": "AK", "secret_key": "SK"}, headers=user)
    await rest.post(f"{path}/validate", headers=user)
    return str(made)


LIFE = [
    ("suspect", "done"),
    ("validate", "done"),
    ("validate", "granted"),
    ("update", "done"),
    ("enable", "done"),
    ("disable", "done"),
    ("store", "done"),
]


async def test_a_credentials_events_tell_its_life_newest_first(rest: httpx.AsyncClient, user: Headers) -> None:
    made = await lived(rest, user)
    answer = await rest.get(f"/v1/credentials/{made}/events", headers=user)
    assert [(event["action"], event["outcome"]) for event in answer.json()["events"]] == LIFE
    assert {event["credential_id"] for event in answer.json()["events"]} == {made}


async def test_event_pages_are_stable_while_events_are_added(rest: httpx.AsyncClient, user: Headers) -> None:
    made = await lived(rest, user)
    path = f"/v1/credentials/{made}/events"
    everything = ids(await rest.get(path, headers=user), "events")
    first = await rest.get(f"{path}?limit=2", headers=user)
    await rest.patch(f"/v1/credentials/{made}", json={"is_active": False}, headers=user)
    await rest.delete(f"/v1/credentials/{made}", headers=user)
    rest_of_it = await follow(rest, user, first.links["next"]["url"], "events")
    assert ids(first, "events") + flat(rest_of_it) == everything
    assert [len(page) for page in rest_of_it] == [2, 2, 1]
    assert len(ids(await rest.get(path, headers=user), "events")) == len(LIFE) + 2


async def test_events_are_filtered(rest: httpx.AsyncClient, bearer: Callable[..., Headers]) -> None:
    name = some_user()
    user = bearer("user", name)
    made, other = await lived(rest, user), await lived(rest, user)
    since = (await rest.get(f"/v1/credentials/{other}/events", headers=user)).json()["events"][-1]["at"]
    for query, expected in (
        (f"credential_id={made}", 7),
        (f"credential_id={made}&action=validate", 2),
        (f"credential_id={made}&action=validate&outcome=granted", 1),
        ("outcome=granted", 2),
        ("outcome=denied", 0),
        (f"actor=user:{name}", 14),
        ("actor=user:nobody", 0),
        (f"user={name}", 14),
        (f"since={since}", 7),
        (f"until={since}", 7),
        (f"since={since}&until={since}", 0),
    ):
        answer = await rest.get(f"/v1/events?{query}", headers=user)
        assert len(ids(answer, "events")) == expected, query


async def test_an_auditor_sees_who_acted_for_whom(rest: httpx.AsyncClient, bearer: Callable[..., Headers]) -> None:
    name = some_user()
    robot = {**bearer("orchestrator", "robot"), "X-User-Id": name, "X-Request-Id": "req-7"}
    made = await rest.post("/v1/credentials", json=new_body(), headers=robot)
    answer = await rest.get(f"/v1/events?credential_id={made.json()['id']}", headers=bearer("auditor", "audrey"))
    (event,) = answer.json()["events"]
    assert (event["actor"], event["acting_user"], event["user_id"]) == ("orchestrator:robot", name, name)
    # The service's own, so that nobody can give their doings another's id.
    assert event["request_id"] == made.headers["x-request-id"] != "req-7"


async def test_events_of_what_never_was_are_404_for_an_auditor_too(
    rest: httpx.AsyncClient, bearer: Callable[..., Headers]
) -> None:
    auditor = bearer("auditor", "audrey")
    for path in (f"/v1/credentials/{uuid4()}/events", f"/v1/events?credential_id={uuid4()}"):
        assert problem_of(await rest.get(path, headers=auditor))[:2] == (404, "credential-not-found")


async def test_filters_that_fit_no_event_of_a_known_credential_are_an_empty_page(
    rest: httpx.AsyncClient, user: Headers, bearer: Callable[..., Headers]
) -> None:
    made = (await stored(rest, user))["id"]
    await rest.delete(f"/v1/credentials/{made}", headers=user)
    for caller in (user, bearer("auditor", "audrey")):
        answer = await rest.get(f"/v1/credentials/{made}/events?action=open", headers=caller)
        assert ids(answer, "events") == []
