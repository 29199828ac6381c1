"""Query parameters: typed, known, once; what is refused is named and never repeated."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from service.authz.policy import Identity, Role
from service.modules.records import CredentialFilter, EventFilter
from tests.support import canary
from tests.unit.fake_runtime import USER, Part, client_of

IDENTITIES = {"user-token": Identity(subject="alice", roles=frozenset({Role.USER}))}
ID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
LIST, EVENTS, OF_ONE = "/v1/credentials", "/v1/events", f"/v1/credentials/{ID}/events"


async def fetched(url: str) -> tuple[Part, Any]:
    part = Part()
    part.result = []
    async with client_of(part, IDENTITIES) as client:
        return part, await client.get(url, headers=USER)


@pytest.mark.parametrize(
    ("url", "field"),
    [
        (f"{LIST}?limit=0", "limit"),
        (f"{LIST}?limit=201", "limit"),
        (f"{LIST}?limit=-1", "limit"),
        (f"{LIST}?limit=010", "limit"),
        (f"{LIST}?limit=5.0", "limit"),
        (f"{LIST}?limit=%205", "limit"),
        (f"{LIST}?limit=1e2", "limit"),
        (f"{LIST}?limit=", "limit"),
        (f"{LIST}?limit={'9' * 5000}", "limit"),
        (f"{LIST}?limit=%D9%A3", "limit"),
        (f"{LIST}?cursor=", "cursor"),
        (f"{LIST}?cursor=abc", "cursor"),
        (f"{LIST}?cursor=%00", "cursor"),
        (f"{LIST}?account_id=7", "account_id"),
        (f"{LIST}?account_id={ID.replace('-', '')}", "account_id"),
        (f"{LIST}?account_id=%7B{ID}%7D", "account_id"),
        (f"{LIST}?credential_type=", "credential_type"),
        (f"{LIST}?credential_type=a%00", "credential_type"),
        (f"{LIST}?is_active=yes", "is_active"),
        (f"{LIST}?is_active=1", "is_active"),
        (f"{LIST}?is_active=True", "is_active"),
        (f"{LIST}?updated_before=yesterday", "updated_before"),
        (f"{LIST}?updated_before=2026-01-01", "updated_before"),
        (f"{LIST}?updated_before=2026-01-01T00:00:00", "updated_before"),
        (f"{LIST}?updated_before=", "updated_before"),
        (f"{LIST}?validated=1", "validated"),
        (f"{LIST}?validated=null", "validated"),
        (f"{LIST}?used=", "used"),
        (f"{LIST}?used=True", "used"),
        (f"{LIST}?used=true&used=true", "query"),
        (f"{EVENTS}?credential_id=x", "credential_id"),
        (f"{EVENTS}?user=a%00b", "user"),
        (f"{EVENTS}?user=", "user"),
        (f"{EVENTS}?actor=a%0Ab", "actor"),
        (f"{EVENTS}?actor={'a' * 600}", "actor"),
        (f"{EVENTS}?action=explode", "action"),
        (f"{EVENTS}?outcome=", "outcome"),
        (f"{EVENTS}?since=2026-01-01", "since"),
        (f"{EVENTS}?since=2026-01-01T00:00:00", "since"),
        (f"{EVENTS}?since=1767225600", "since"),
        (f"{EVENTS}?since=2026-02-30T00:00:00Z", "since"),
        (f"{EVENTS}?until=0001-01-01T00:00:00%2B14:00", "until"),
        (f"{EVENTS}?until=0000-01-01T00:00:00Z", "until"),
        (f"{EVENTS}?until=2026-01-01T00:00:00%2B99:00", "until"),
        (f"{OF_ONE}?user=bob", "query"),
        (f"{OF_ONE.replace(ID, 'x')}", "credential_id"),
        (f"{LIST}?user=bob", "query"),
        (f"{LIST}?limit=5&limit=6", "query"),
        (f"{LIST}?limit=5&limit=5", "query"),
        (f"{LIST}/{ID}?x=1", "query"),
        (f"{LIST}/{ID}?=", "query"),
    ],
)
async def test_what_is_wrong_is_422_and_named(url: str, field: str) -> None:
    part, answer = await fetched(url)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert part.calls == []


@pytest.mark.parametrize(
    "query",
    [
        "limit={}",
        "cursor={}",
        "account_id={}",
        "is_active={}",
        "{}=1",
        "{}",
        "credential_type={}%00",
        "limit=1&limit={}",
    ],
)
async def test_a_refusal_does_not_repeat_what_was_sent(query: str) -> None:
    secret = canary()
    _, answer = await fetched(f"{LIST}?{query.format(secret)}")
    assert answer.status_code == 422
    assert secret not in answer.text + str(answer.headers)


async def test_good_filters_reach_the_reader_with_one_more_than_the_limit() -> None:
    part, answer = await fetched(f"{LIST}?account_id={ID.upper()}&credential_type=alpaca&is_active=false&limit=7")
    assert answer.status_code == 200
    assert answer.json() == {"status": "success", "credentials": [], "count": 0}
    ((name, args, _),) = part.calls
    assert name == "page"
    assert args[1:] == (
        CredentialFilter(account_id=UUID(ID), credential_type="alpaca", is_active=False), None, 8,
    )  # fmt: skip


async def test_filters_by_age_reach_the_reader() -> None:
    query = "updated_before=2026-01-31T12:00:00%2B02:00&validated=false&used=true"
    part, answer = await fetched(f"{LIST}?{query}")
    assert answer.status_code == 200
    ((_, args, _),) = part.calls
    assert args[1] == CredentialFilter(updated_before=datetime(2026, 1, 31, 10, tzinfo=UTC), validated=False, used=True)


async def test_good_event_filters_reach_the_reader_in_utc() -> None:
    query = "user=b%C3%B8b&actor=user:bob&action=open&outcome=denied&since=2026-01-31T12:00:00.5%2B02:00"
    part, answer = await fetched(f"{EVENTS}?{query}&until=2026-02-01t00:00:00z&credential_id={ID}")
    assert answer.status_code == 200
    ((name, args, _),) = part.calls
    assert name == "events"
    assert args[1] == EventFilter(
        credential_id=UUID(ID),
        user_id="bøb",
        actor="user:bob",
        action="open",
        outcome="denied",
        since=datetime(2026, 1, 31, 10, 0, 0, 500_000, tzinfo=UTC),
        until=datetime(2026, 2, 1, tzinfo=UTC),
    )
    assert args[2:] == (None, 51)
