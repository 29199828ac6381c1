"""Events as JSON lines: who gets them, how much is in memory at once, and how the answer ends."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import Request

from service.api.event_export import JSON_LINES, PAGE, lines_response, wants_lines
from service.authz.policy import Identity, Role
from service.errors import CredentialNotFound, DatabaseUnavailable
from service.modules.records import Cursor, RecordedEvent
from tests.unit.fake_runtime import USER, Part, client_of

IDENTITIES = {"user-token": Identity(subject="alice", roles=frozenset({Role.USER}))}
LINES = {**USER, "Accept": JSON_LINES}
NEWEST = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(number: int) -> RecordedEvent:
    return RecordedEvent(
        id=number,
        at=NEWEST - timedelta(days=1) + timedelta(seconds=number),
        credential_id=None,
        user_id=None,
        account_id=None,
        acting_user=None,
        actor="operator:olga",
        action="rotate",
        outcome="done",
        reason=None,
        transit_key="credentials-alpaca",
        transit_key_version=2,
        batch_id=None,
        request_id=None,
    )


class Log:
    """Events by number, as the reader gives them."""

    def __init__(self, count: int) -> None:
        self.events = [event(number) for number in range(count, 0, -1)]
        self.reads: list[tuple[Cursor | None, int]] = []

    async def read(self, after: Cursor | None, limit: int) -> Sequence[RecordedEvent]:
        self.reads.append((after, limit))
        return [each for each in self.events if after is None or (each.at, each.id) < (after.at, after.id)][:limit]


def request(*accepted: str) -> Request:
    headers = [(b"accept", each.encode()) for each in accepted]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""})


@pytest.mark.parametrize(
    ("accepted", "lines"),
    [
        ((), False),
        (("*/*",), False),
        (("application/*",), False),
        (("application/json",), False),
        ((JSON_LINES,), True),
        (("Application/X-NDJSON",), True),
        ((f"{JSON_LINES};q=0",), False),
        ((f"{JSON_LINES}; q=0.000",), False),
        ((f"{JSON_LINES};q=0.1",), True),
        ((f"{JSON_LINES}, application/json",), True),
        ((f"{JSON_LINES};q=0.5, application/json",), False),
        ((f"{JSON_LINES}, application/json;q=0.9",), True),
        (("application/json;q=0.4", f"{JSON_LINES};q=0.5"), True),
        ((f"{JSON_LINES};charset=utf-8;q=0.5, application/json;q=0.6",), False),
        (("application/x-ndjson2",), False),
        (("text/application/x-ndjson",), False),
        ((",,;;=", "\x00\xff"), False),
    ],
)
def test_json_lines_are_for_who_asks_for_them_by_name(accepted: tuple[str, ...], lines: bool) -> None:
    assert wants_lines(request(*accepted)) is lines


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 7])
async def test_every_event_is_one_line_newest_first(count: int) -> None:
    log = Log(count)
    answer = await lines_response(log.read, None)
    text = "".join([str(chunk) async for chunk in answer.body_iterator])
    assert text == "" or text.endswith("\n")
    assert [json.loads(line)["id"] for line in text.splitlines()] == list(range(count, 0, -1))
    assert answer.media_type == JSON_LINES


async def test_the_next_page_is_not_read_before_the_one_before_is_sent() -> None:
    log = Log(10 * PAGE)
    answer = await lines_response(log.read, None)
    chunks: AsyncIterator[Any] = aiter(answer.body_iterator)
    for sent in range(1, 6):
        assert len(log.reads) == max(1, sent - 1)
        assert str(await anext(chunks)).count("\n") == PAGE
    assert {limit for _, limit in log.reads} == {PAGE}
    # What goes away reads no more.
    await answer.body_iterator.aclose()  # type: ignore[attr-defined]  # an async generator, told as an iterator
    assert len(log.reads) == 5


async def test_events_that_are_added_meanwhile_shift_nothing() -> None:
    log = Log(3 * PAGE)
    answer = await lines_response(log.read, None)
    ids = []
    async for chunk in answer.body_iterator:
        ids += [json.loads(line)["id"] for line in str(chunk).splitlines()]
        log.events.insert(0, event(10 * PAGE + len(ids)))
    assert ids == list(range(3 * PAGE, 0, -1))


async def test_over_http_lines_have_their_type_and_pages_theirs() -> None:
    part = Part()
    part.result = [event(2), event(1)]
    async with client_of(part, IDENTITIES) as client:
        for path in ("/v1/events", "/v1/credentials/6f9619ff-8b86-4011-b42d-00c04fc964ff/events"):
            lines = await client.get(f"{path}?action=rotate", headers=LINES)
            page = await client.get(f"{path}?action=rotate", headers=USER)
            assert (lines.status_code, lines.headers["content-type"]) == (200, JSON_LINES)
            assert (page.status_code, page.headers["content-type"]) == (200, "application/json")
            assert [json.loads(line) for line in lines.text.splitlines()] == page.json()["events"]
            assert lines.headers["vary"] == page.headers["vary"] == "Accept"
            assert lines.headers["cache-control"] == "no-store"
            assert "link" not in lines.headers
    asked = [args for _, args, _ in part.calls]
    assert asked[0][1] == asked[1][1]


async def test_a_limit_is_for_pages() -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        answer = await client.get("/v1/events?limit=50", headers=LINES)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "limit")
    assert part.calls == []


@pytest.mark.parametrize(("error", "status"), [(CredentialNotFound(), 404), (DatabaseUnavailable(), 503)])
async def test_what_cannot_be_read_at_all_is_an_error_and_no_empty_export(error: Exception, status: int) -> None:
    part = Part()
    part.result = error
    async with client_of(part, IDENTITIES) as client:
        answer = await client.get("/v1/events", headers=LINES)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
