"""Invariant 9: a stranger learns nothing. Over REST another user's credential answers, byte for byte, as a random id.

Nothing is left out of the comparison but the date, the request's own id, which is random, and what is left to the
stranger of their own rate limits.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.doubles.alpaca import AlpacaDouble
from tests.rest import Headers, client_on, new_body, routes, stored
from tests.stored import some_user
from tests.support import Stack, canary
from tests.written import Connection

JSON = {"Content-Type": "application/json"}
KEYS = b'{"api_key": "AK", "secret_key": "SK"}'

# Every request that anybody may try on an id: headers and body.
TRIES: dict[str, tuple[Headers, bytes]] = {
    "nothing": ({}, b""),
    "new keys": (JSON, KEYS),
    "one key": (JSON, b'{"secret_key": "SK"}'),
    "disable": (JSON, b'{"is_active": false}'),
    "If-Match that fits": ({**JSON, "If-Match": '"1"'}, KEYS),
    "If-Match that does not": ({**JSON, "If-Match": '"77"'}, KEYS),
    "If-Match any": ({**JSON, "If-Match": "*"}, KEYS),
    "If-Match weak": ({**JSON, "If-Match": 'W/"1"'}, KEYS),
    "If-Match malformed": ({**JSON, "If-Match": "1"}, KEYS),
    "empty object": (JSON, b"{}"),
    "unknown field": (JSON, b'{"user_id": "x"}'),
    "wrong type": (JSON, b'{"is_active": 1}'),
    "key that is not ASCII": (JSON, '{"api_key": "é"}'.encode()),
    "empty key": (JSON, b'{"api_key": "", "secret_key": ""}'),
    "not JSON": (JSON, b"{"),
    "bad UTF-8": (JSON, b'{"api_key": "\xff"}'),
    "too large": (JSON, b" " * 20_000),
    "another content type": ({"Content-Type": "text/plain"}, KEYS),
    "Idempotency-Key": ({**JSON, "Idempotency-Key": "k"}, KEYS),
}
QUERIES = ("", "?limit=1", "?limit=0", "?x=1", "?cursor=AAAA", "?action=open&outcome=denied")
# What an address names beside the credential.
BESIDE = {"handoff_id": str(uuid4()), "path": "v2/account"}
OF_ONE = sorted(route for route in routes() if "{credential_id}" in route)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.fixture(scope="module")
async def rest(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with AlpacaDouble() as alpaca, client_on(stack.settings(alpaca_base_url=alpaca.url)) as client:
        yield client


async def _active(rest: httpx.AsyncClient, owners: Headers) -> str:
    return str((await stored(rest, owners))["id"])


async def _polygon(rest: httpx.AsyncClient, owners: Headers) -> str:
    return str((await stored(rest, owners, credential_type="polygon", secret_key=""))["id"])


async def _disabled(rest: httpx.AsyncClient, owners: Headers) -> str:
    made = await _active(rest, owners)
    answer = await rest.patch(f"/v1/credentials/{made}", json={"is_active": False}, headers=owners)
    assert answer.status_code == 200
    return made


async def _used(rest: httpx.AsyncClient, owners: Headers) -> str:
    """Updated, rolled back, validated: with a history, a previous version and a verdict."""
    made = await _active(rest, owners)
    path = f"/v1/credentials/{made}"
    for answer in (
        await rest.patch(path, json={"secret_key": canary()}, headers=owners),
        await rest.post(f"{path}/rollback", headers=owners),
        await rest.post(f"{path}/validate", headers=owners),
    ):
        assert answer.status_code == 200
    return made


async def _deleted(rest: httpx.AsyncClient, owners: Headers) -> str:
    made = await _used(rest, owners)
    assert (await rest.delete(f"/v1/credentials/{made}", headers=owners)).status_code == 204
    return made


STATES = {"active": _active, "polygon": _polygon, "disabled": _disabled, "used": _used, "deleted": _deleted}


def all_of(answer: httpx.Response, *ids: str) -> tuple[Any, ...]:
    """The whole answer, but for its date, request id and rate limits. None of the ids given is in it."""
    raw = [
        (name.lower(), b"" if name.lower() in (b"x-request-id", b"ratelimit") else value)
        for name, value in answer.headers.raw
        if name.lower() != b"date"
    ]
    for given in ids:
        assert given.encode() not in answer.content + repr(raw).encode()
    own_id = answer.headers["x-request-id"]
    assert len(own_id) == 32
    return answer.status_code, raw, answer.content.replace(own_id.encode(), b"")


def callers(bearer: Callable[..., Headers]) -> Iterable[Headers]:
    """Another user, and an orchestrator that acts for one."""
    stranger = some_user("stranger")
    yield bearer("user", stranger)
    yield {**bearer("orchestrator", "robot"), "X-User-Id": stranger}


@pytest.mark.parametrize("state", STATES)
async def test_anothers_credential_answers_as_a_random_id_on_every_route_to_every_request(
    state: str, rest: httpx.AsyncClient, bearer: Callable[..., Headers]
) -> None:
    theirs = await STATES[state](rest, bearer("user", some_user("owner")))
    compared = 0
    for caller in callers(bearer):
        for route in OF_ONE:
            method, template = route.split()
            # To users nothing is handed off at all.
            refused = (403,) if "/handoff" in template and "X-User-Id" not in caller else (404,)
            for name, (headers, body) in TRIES.items():
                # Twice: having asked once must not show, either, in the events above all.
                for _ in range(2 if name == "nothing" else 1):
                    answers = [
                        all_of(
                            await rest.request(
                                method,
                                template.format(credential_id=asked, **BESIDE),
                                content=body,
                                headers={**caller, **headers},
                            ),
                            theirs,
                        )
                        for asked in (theirs, str(uuid4()))
                    ]
                    assert answers[0] == answers[1], (route, name)
                    assert answers[0][0] in (*refused, 413, 415, 422), (route, name)
                    compared += 1
    assert compared == 2 * len(OF_ONE) * (len(TRIES) + 1)


@pytest.mark.parametrize("state", STATES)
async def test_so_do_methods_and_queries_that_there_are_not(
    state: str, rest: httpx.AsyncClient, bearer: Callable[..., Headers]
) -> None:
    theirs = await STATES[state](rest, bearer("user", some_user("owner")))
    caller = bearer("user", some_user("stranger"))
    paths = sorted({route.split()[1] for route in OF_ONE})
    for template in paths:
        for method in METHODS:
            for query in QUERIES:
                answers = [
                    all_of(
                        await rest.request(
                            method,
                            template.format(credential_id=asked, **BESIDE) + query,
                            headers=caller,
                        ),
                        theirs,
                    )
                    for asked in (theirs, theirs.upper(), str(uuid4()))
                ]
                assert answers[0] == answers[1] == answers[2], (method, template, query)
                assert answers[0][0] in (403 if "/handoff" in template else 404, 404, 405, 415, 422)


async def test_lists_and_events_of_a_stranger_are_the_same_whether_or_not_it_is_there(
    rest: httpx.AsyncClient, bearer: Callable[..., Headers]
) -> None:
    owner = some_user("owner")
    made = await stored(rest, bearer("user", owner))
    caller = bearer("user", some_user("stranger"))
    await rest.post(f"/v1/credentials/{made['id']}/validate", headers=caller)
    await rest.post(f"/v1/credentials/{uuid4()}/validate", headers=caller)
    pairs = [
        (f"/v1/credentials?account_id={made['account_id']}", f"/v1/credentials?account_id={uuid4()}"),
        (f"/v1/events?credential_id={made['id']}", f"/v1/events?credential_id={uuid4()}"),
        (f"/v1/events?user={owner}", f"/v1/events?user={some_user('owner')}"),
        (f"/v1/events?actor=user:{owner}", f"/v1/events?actor=user:{some_user('owner')}"),
        ("/v1/events", "/v1/events?outcome=denied"),
    ]
    for about_theirs, about_none in pairs:
        answers = [all_of(await rest.get(path, headers=caller), made["id"]) for path in (about_theirs, about_none)]
        assert answers[0] == answers[1], about_theirs


async def test_anothers_idempotency_key_and_account_are_free_to_use(
    rest: httpx.AsyncClient, bearer: Callable[..., Headers]
) -> None:
    body = new_body()
    key = {"Idempotency-Key": "everybody-uses-this-one"}
    first = await rest.post("/v1/credentials", json=body, headers={**bearer("user", some_user()), **key})
    second = await rest.post("/v1/credentials", json=body, headers={**bearer("user", some_user()), **key})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    assert first.headers["etag"] == second.headers["etag"]


async def test_the_auditors_events_keep_the_difference_that_the_stranger_is_not_told(
    rest: httpx.AsyncClient, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    theirs = await _active(rest, bearer("user", some_user("owner")))
    stranger = some_user("stranger")
    await rest.post(f"/v1/credentials/{theirs}/validate", headers=bearer("user", stranger))
    await rest.post(f"/v1/credentials/{uuid4()}/validate", headers=bearer("user", stranger))
    found = await rest.get("/v1/events", params={"actor": f"user:{stranger}"}, headers=bearer("auditor", "audrey"))
    assert [event["reason"] for event in found.json()["events"]] == ["not_found", "not_owner"]
