"""Credentials' metadata asked for at the same time: one statement for many, and to each what is theirs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.app import create_app
from service.composition import Runtime
from service.errors import Busy, CredentialNotFound, DatabaseUnavailable, InvalidInput
from service.modules.records import AuditAccess, Credential, OwnerAccess, ReadAccess
from tests.port_hooks import Gate, hooked_runtime
from tests.rest import Headers, client_of, problem_of
from tests.stored import Stored, owner, some_user, store
from tests.support import Stack
from tests.written import Connection

AUDITOR = AuditAccess(actor="auditor:audrey")
READ = "store.get_each"


@asynccontextmanager
async def counted(stack: Stack, **overrides: Any) -> AsyncIterator[tuple[Runtime, list[str]]]:
    """A runtime, and the reading statements it has begun."""
    begun: list[str] = []

    async def hook(when: str, step: str) -> None:
        if (when, step) == ("before", READ):
            begun.append(step)

    async with hooked_runtime(stack.settings(**overrides), hook) as runtime:
        yield runtime, begun


async def stored_by(runtime: Runtime, count: int) -> list[Stored]:
    """Credentials of as many users."""
    return list(await asyncio.gather(*(store(runtime) for _ in range(count))))


async def read_all(runtime: Runtime, wanted: list[tuple[ReadAccess, UUID]]) -> list[Any]:
    """What comes of reading them at the same time; errors are values."""
    return await asyncio.gather(
        *(runtime.reader.get(access, credential_id) for access, credential_id in wanted), return_exceptions=True
    )


async def test_many_at_the_same_time_are_one_statement_and_each_gets_its_own(stack: Stack) -> None:
    async with counted(stack) as (runtime, begun):
        stored = await stored_by(runtime, 25)
        found = await read_all(runtime, [(each.access, each.id) for each in stored])
    assert [(row.id, row.user_id, row.account_id) for row in found] == [
        (each.id, each.user_id, each.account_id) for each in stored
    ]
    assert begun == [READ]


async def test_in_one_statement_each_sees_what_their_access_shows_and_no_more(stack: Stack) -> None:
    async with counted(stack) as (runtime, begun):
        one, two = await stored_by(runtime, 2)
        stranger, nothing = owner(some_user()), uuid4()
        asked: list[tuple[ReadAccess, UUID, bool]] = [
            (one.access, one.id, True),
            (two.access, one.id, False),
            (AUDITOR, one.id, True),
            (stranger, one.id, False),
            (one.access, two.id, False),
            (one.access, nothing, False),
            (AUDITOR, nothing, False),
            (two.access, two.id, True),
            (one.access, one.id, True),
        ]
        found = await read_all(runtime, [(access, wanted) for access, wanted, _ in asked])
    assert begun == [READ]
    for (_, wanted, is_shown), result in zip(asked, found, strict=True):
        assert isinstance(result, Credential) if is_shown else type(result) is CredentialNotFound
        assert not is_shown or result.id == wanted
    refused = [result for result in found if isinstance(result, CredentialNotFound)]
    assert len({id(error) for error in refused}) == len(refused), "one caller's error is another's"
    assert len({(str(error), error.args, repr(vars(error))) for error in refused}) == 1


@pytest.mark.parametrize("name", ["%", "_", "null", "NULL", "{}"])
async def test_a_user_of_an_odd_name_is_nobody_else(runtime: Runtime, name: str) -> None:
    mine, theirs = await store(runtime, f"{name}{some_user()}"), await store(runtime)
    found = await read_all(runtime, [(mine.access, mine.id), (mine.access, theirs.id), (owner(name), theirs.id)])
    assert [type(each) for each in found] == [Credential, CredentialNotFound, CredentialNotFound]


async def test_what_was_committed_before_it_was_asked_for_is_read(stack: Stack) -> None:
    gate = Gate("after", READ)
    async with hooked_runtime(stack.settings(batches_under_way=2), gate) as runtime:
        stored = await store(runtime)
        early = asyncio.create_task(runtime.reader.get(stored.access, stored.id))
        await gate.wait_for(early)
        await runtime.writer.update(
            stored.access, stored.id, api_key=None, secret_key=None, is_active=False, if_match=None
        )
        late = await runtime.reader.get(stored.access, stored.id)
        gate.opened.set()
        assert (late.is_active, late.row_version) == (False, 2)
        assert (await early).row_version == 1


async def test_a_caller_that_gives_up_harms_no_other(stack: Stack) -> None:
    gate = Gate("after", READ)
    async with hooked_runtime(stack.settings(batches_under_way=1), gate) as runtime:
        stored = await stored_by(runtime, 6)
        tasks = [asyncio.create_task(runtime.reader.get(each.access, each.id)) for each in stored[:3]]
        await gate.wait_for(tasks[0])
        tasks += [asyncio.create_task(runtime.reader.get(each.access, each.id)) for each in stored[3:]]
        await asyncio.sleep(0)
        assert runtime.reader.waiting == 3
        for gone in (tasks[0], tasks[3]):  # one of the statement under way, one that waits for the next
            gone.cancel()
        await asyncio.sleep(0)
        assert runtime.reader.waiting == 2
        gate.opened.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    kept = {at: each.id for at, each in enumerate(stored) if at not in (0, 3)}
    assert {at: getattr(result, "id", None) for at, result in enumerate(found) if at in kept} == kept
    assert [type(found[at]) for at in (0, 3)] == [asyncio.CancelledError] * 2


async def test_trouble_of_the_database_is_each_callers_own_error_and_passes(stack: Stack) -> None:
    is_down = False

    async def down(when: str, step: str) -> None:
        if is_down and (when, step) == ("before", READ):
            raise DatabaseUnavailable(retry_after=7)

    async with hooked_runtime(stack.settings(), down) as runtime:
        stored = await stored_by(runtime, 5)
        wanted: list[tuple[ReadAccess, UUID]] = [(each.access, each.id) for each in stored]
        is_down = True
        errors = await read_all(runtime, wanted)
        is_down = False
        assert [each.id for each in await read_all(runtime, wanted)] == [each.id for each in stored]
    assert [(type(error), error.retry_after) for error in errors] == [(DatabaseUnavailable, 7)] * 5
    assert len({id(error) for error in errors}) == 5


async def test_a_name_that_would_fail_a_whole_statement_is_refused_before_it_is_queued(runtime: Runtime) -> None:
    stored = await store(runtime)
    bad: list[tuple[ReadAccess, UUID]] = [
        (OwnerAccess(user_id=name, actor="test"), stored.id) for name in ("nul\0", "half\ud800", "")
    ]
    found = await read_all(runtime, [(stored.access, stored.id), *bad])
    assert [type(each) for each in found] == [Credential, InvalidInput, InvalidInput, InvalidInput]


async def test_one_users_flood_does_not_hold_up_anothers_single_read(stack: Stack) -> None:
    async with Runtime.open(stack.settings(batch_items=4, batches_under_way=1)) as runtime:
        flooding, single = await stored_by(runtime, 2)
        order: list[str] = []

        async def one(stored: Stored, name: str) -> None:
            await runtime.reader.get(stored.access, stored.id)
            order.append(name)

        flood = [asyncio.create_task(one(flooding, "flood")) for _ in range(100)]
        await asyncio.sleep(0)
        await one(single, "single")
        assert order.index("single") < 12
        await asyncio.gather(*flood)


async def test_beyond_the_bound_a_read_is_told_busy_and_over_rest_503(
    stack: Stack, runtime: Runtime, bearer: Callable[..., Headers]
) -> None:
    stored = await store(runtime, "alice")
    app = create_app(stack.settings(batch_items=1, batches_under_way=1, max_waiting=2))
    async with app.router.lifespan_context(app), client_of(app) as client:
        url, headers = f"/v1/credentials/{stored.id}", bearer("user", "alice")
        answers = await asyncio.gather(*(client.get(url, headers=headers) for _ in range(12)))
        results = await read_all(app.state.runtime, [(stored.access, stored.id)] * 12)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert {problem_of(answer) for answer in refused} == {(503, "busy", "1")}
    assert any(answer.status_code == 200 for answer in answers)
    assert {type(result) for result in results} == {Credential, Busy}


async def test_reading_leaves_no_record_and_changes_nothing(runtime: Runtime, owner_conn: Connection) -> None:
    stored = await store(runtime)
    row = "SELECT c::text FROM credentials c WHERE id = $1"
    events = "SELECT count(*) FROM credential_events WHERE credential_id = $1"
    before = [await owner_conn.fetchval(statement, stored.id) for statement in (row, events)]
    await read_all(runtime, [(stored.access, stored.id), (AUDITOR, stored.id)])
    assert [await owner_conn.fetchval(statement, stored.id) for statement in (row, events)] == before
