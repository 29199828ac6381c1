"""A request's ids: which traces are believed, who sees them, and that no caller's text comes through."""

import asyncio
import io
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from service import correlation
from service.authz.policy import Identity, Role
from service.correlation import Correlation, TraceContext, note_batch, vault_headers
from service.errors import CredentialNotFound, VaultSealed
from service.modules.coalescer import FairQueue
from tests.support import canary
from tests.unit.fake_runtime import USER, Part, client_of
from tests.unit.test_observability import ID, lines, log

__all__ = ["log"]

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
IDENTITIES = {"user-token": Identity(subject="alice", roles=frozenset({Role.USER}))}


@pytest.fixture
def request_of_mine() -> Iterator[Correlation]:
    mine = Correlation("f" * 32, TraceContext(TRACE, SPAN, "01"))
    token = correlation.enter(mine)
    yield mine
    correlation.leave(token)


@pytest.mark.parametrize(
    "given", [GOOD, f"00-{TRACE}-{SPAN}-ff", f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-more"]
)
def test_a_valid_traceparent_is_taken(given: str) -> None:
    found = TraceContext.parse([given.encode()])
    assert found is not None
    assert (found.trace_id, found.span_id) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [GOOD, GOOD],
        [""],
        [GOOD.upper()],
        [f" {GOOD}"],
        [f"{GOOD}\n"],
        [f"{GOOD}-more"],
        [f"ff-{TRACE}-{SPAN}-01"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE[:-1]}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}"],
        [f"00-{TRACE}-{SPAN}-0x"],
        [f"cc-{TRACE}-{SPAN}-01{'-' + 'x' * 300}"],
        [f"00-{TRACE[:-1]}é-{SPAN}-01"],
    ],
)
def test_an_invalid_traceparent_is_as_none(given: list[str]) -> None:
    assert TraceContext.parse([each.encode("utf-8") for each in given]) is None


async def test_the_trace_is_in_the_line_of_the_answer_in_others_and_in_the_error(log: io.StringIO) -> None:
    part = Part()
    part.result = VaultSealed()
    async with client_of(part, IDENTITIES) as client:
        answer = await client.get(f"/v1/credentials/{ID}", headers={**USER, "traceparent": GOOD})
    told = lines(log)
    assert [line["logger"] for line in told] == ["service.api.error_responses", "service.access"]
    assert {line["trace_id"] for line in told} == {TRACE}
    assert answer.json()["trace_id"] == TRACE
    assert {line["request_id"] for line in told} == {answer.json()["instance"]}


async def test_a_bad_traceparent_leaves_no_trace_of_itself(log: io.StringIO) -> None:
    part, secret = Part(), canary()
    part.result = CredentialNotFound()
    async with client_of(part, IDENTITIES) as client:
        for given in (secret, f"00-{TRACE}-{SPAN}-01-{secret}", f"{GOOD}, {GOOD}"):
            answer = await client.get(f"/v1/credentials/{ID}", headers={**USER, "traceparent": given})
            assert "trace_id" not in answer.json()
    assert secret not in log.getvalue()
    assert "trace_id" not in log.getvalue()


async def test_what_vault_is_asked_for_one_request_carries_its_ids(request_of_mine: Correlation) -> None:
    assert vault_headers() == {"X-Request-Id": "f" * 32, "Traceparent": GOOD}
    request_of_mine.trace = None
    assert vault_headers() == {"X-Request-Id": "f" * 32}


def test_outside_a_request_nothing_is_sent_or_noted() -> None:
    note_batch(uuid4())
    assert vault_headers() == {}


def test_a_request_notes_each_batch_once_and_only_so_many(request_of_mine: Correlation) -> None:
    first = uuid4()
    for batch in (first, first, None, *(uuid4() for _ in range(40))):
        note_batch(batch)
    assert request_of_mine.batches[0] == str(first)
    assert len(request_of_mine.batches) == len(set(request_of_mine.batches)) == 16


async def test_what_waits_in_a_queue_is_worked_on_as_for_who_asked(request_of_mine: Correlation) -> None:
    queue = FairQueue(at_once=1, waiting=10, name="test")

    async def whose() -> str | None:
        found = correlation.current()
        return None if found is None else found.request_id

    async def ask(request_id: str | None) -> str | None:
        correlation.enter(None if request_id is None else Correlation(request_id))
        return await queue.run(whose, group="one")

    asked = ["a", None, "b"]
    assert await asyncio.gather(*(asyncio.create_task(ask(each)) for each in asked)) == asked
    await queue.aclose()


async def test_what_goes_on_for_others_is_not_of_the_request_that_started_it(request_of_mine: Correlation) -> None:
    async def found() -> Correlation | None:
        return correlation.current()

    assert await asyncio.create_task(found()) is request_of_mine
    assert await correlation.start_alone(found(), "background") is None


# Tasks of whoever starts them: no group's outlives its block.
OF_THEIR_STARTERS = {
    "api/proxy_caller.py": "reads what the caller sends, for as long as the call lasts",
    "correlation.py": "start_alone",
    "modules/ciphertext_cache.py": "one read, under the id of the first who waits for it, as docs/watching.md has it",
    "modules/open_batches.py": "of the batch, which has a context of its own, or of one caller's own opening",
    "server.py": "the process's end",
}


def test_every_other_task_starts_alone() -> None:
    service = Path(correlation.__file__).parent
    starting = {
        path.relative_to(service).as_posix()
        for path in service.rglob("*.py")
        if re.search(r"(?<!group)\.(create_task|ensure_future)\(", path.read_text())
    }
    assert starting == OF_THEIR_STARTERS.keys()
