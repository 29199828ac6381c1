"""Events as JSON lines: who gets them, how much is in memory at once, and how the answer ends."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import Request

from service.api.event_export import JSON_LINES, PAGE, Exports, LinesResponse, ReadPage, wants_lines
from service.authz.policy import Identity, Role
from service.errors import Busy, CredentialNotFound, DatabaseUnavailable
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


Sent = Callable[[str], Awaitable[None]]


async def export(read: ReadPage, sent: Sent, *, exports: Exports | None = None, caller: str = "user:alice") -> None:
    """One export to its end, from behind a server; `sent` gets each part of the body, and is waited for."""
    response = LinesResponse(read, None, exports=exports or Exports(), caller=caller)
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        raise AssertionError("nobody went away")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert (message["status"], dict(message["headers"])[b"content-type"]) == (200, JSON_LINES.encode())
        else:
            await sent(message["body"].decode())

    await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)


async def nowhere(_text: str) -> None:
    """A client that takes everything."""


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 7])
async def test_every_event_is_one_line_newest_first(count: int) -> None:
    parts = []

    async def sent(text: str) -> None:
        parts.append(text)

    await export(Log(count).read, sent)
    text = "".join(parts)
    assert text == "" or text.endswith("\n")
    assert [json.loads(line)["id"] for line in text.splitlines()] == list(range(count, 0, -1))


async def test_the_next_page_is_not_read_before_the_one_before_is_sent() -> None:
    log = Log(10 * PAGE)
    reads: list[int] = []

    async def sent(text: str) -> None:
        reads.append(len(log.reads))
        await asyncio.sleep(0.01)
        assert len(log.reads) == reads[-1]
        assert text.count("\n") == (PAGE if len(reads) <= 10 else 0)

    await export(log.read, sent)
    assert reads == [*range(1, 11), 11]
    assert {limit for _, limit in log.reads} == {PAGE}


async def test_events_that_are_added_meanwhile_shift_nothing() -> None:
    log = Log(3 * PAGE)
    ids: list[int] = []

    async def sent(text: str) -> None:
        ids.extend(json.loads(line)["id"] for line in text.splitlines())
        log.events.insert(0, event(10 * PAGE + len(ids)))

    await export(log.read, sent)
    assert ids == list(range(3 * PAGE, 0, -1))


class Held:
    """A client, or a reader, that comes here and goes on when it may."""

    def __init__(self) -> None:
        self.here = 0
        self.most = 0
        self.opened = asyncio.Event()

    async def take(self, _text: str = "") -> None:
        self.here += 1
        self.most = max(self.most, self.here)
        try:
            await self.opened.wait()
        finally:
            self.here -= 1

    async def read(self, _after: Cursor | None, _limit: int) -> Sequence[RecordedEvent]:
        await self.take()
        return [event(1)]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0)


async def test_one_caller_has_so_many_exports_under_way_and_all_together_so_many() -> None:
    exports, client, log = Exports(for_caller=2, in_all=3), Held(), Log(1)
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(export(log.read, client.take, exports=exports))
        await until(lambda: client.here == 2)
        with pytest.raises(Busy):
            await export(log.read, nowhere, exports=exports)
        group.create_task(export(log.read, client.take, exports=exports, caller="user:bob"))
        await until(lambda: client.here == 3)
        assert exports.under_way == 3
        reads = len(log.reads)
        for caller in ("user:alice", "user:bob", "user:carol"):
            with pytest.raises(Busy):
                await export(log.read, nowhere, exports=exports, caller=caller)
        assert len(log.reads) == reads
        client.opened.set()
    assert exports.under_way == 0
    await export(log.read, nowhere, exports=exports, caller="user:carol")


def test_the_bounds_without_others_given() -> None:
    exports, held = Exports(), []
    for caller in range(8):
        for _ in range(4):
            held.append(exports.one_of(f"user:{caller}"))
            held[-1].__enter__()
        if caller < 7:
            with pytest.raises(Busy), exports.one_of(f"user:{caller}"):
                pass
    assert exports.under_way == 32
    with pytest.raises(Busy), exports.one_of("user:another"):
        pass


@pytest.mark.parametrize("at", ["reading", "sending"])
async def test_a_cancelled_export_gives_its_place_back(at: str) -> None:
    exports, held = Exports(for_caller=1, reads_at_once=1), Held()
    read, sent = (held.read, nowhere) if at == "reading" else (Log(1).read, held.take)
    for _ in range(3):
        task = asyncio.create_task(export(read, sent, exports=exports))
        await until(lambda: held.here == 1)
        assert exports.under_way == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert exports.under_way == held.here == 0


async def test_one_that_waits_to_read_and_is_cancelled_gives_its_place_back() -> None:
    exports, held = Exports(reads_at_once=1), Held()
    first = asyncio.create_task(export(held.read, nowhere, exports=exports))
    await until(lambda: held.here == 1)
    second = asyncio.create_task(export(held.read, nowhere, exports=exports))
    await until(lambda: exports.under_way == 2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert exports.under_way == 1
    held.opened.set()
    await first
    await export(held.read, nowhere, exports=exports)
    assert exports.under_way == 0


@pytest.mark.parametrize("page", [1, 2])
async def test_an_export_that_fails_gives_its_place_back(page: int) -> None:
    exports, log = Exports(for_caller=1), Log(3 * PAGE)

    async def failing(after: Cursor | None, limit: int) -> Sequence[RecordedEvent]:
        if page == 1 or after is not None:
            raise DatabaseUnavailable
        return await log.read(after, limit)

    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await export(failing, nowhere, exports=exports)
        assert exports.under_way == 0


async def test_an_answer_that_is_never_sent_holds_no_place() -> None:
    exports = Exports(for_caller=1)
    for _ in range(3):
        LinesResponse(Log(1).read, None, exports=exports, caller="user:alice")
    await export(Log(1).read, nowhere, exports=exports)


async def test_pages_of_all_exports_take_two_connections_at_once() -> None:
    exports, held = Exports(), Held()
    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(export(held.read, nowhere, exports=exports, caller=f"user:{number}"))
        await until(lambda: exports.under_way == 12)
        for _ in range(20):
            await asyncio.sleep(0)
        assert held.here == 2
        held.opened.set()
    assert held.most == 2

    # And so for the pages that follow the first.
    log, most = Log(4 * PAGE), Held()

    async def counted(after: Cursor | None, limit: int) -> Sequence[RecordedEvent]:
        if after is not None:
            most.here += 1
            most.most = max(most.most, most.here)
            await asyncio.sleep(0.001)
            most.here -= 1
        return await log.read(after, limit)

    await asyncio.gather(*(export(counted, nowhere, exports=exports, caller=f"user:{n}") for n in range(12)))
    assert most.most == 2


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
