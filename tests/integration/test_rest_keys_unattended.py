"""Keys over REST where no worker runs: jobs wait, and end as somebody with a worker's login to Postgres has them end.

On a stack of this module's own, whose services have no worker in them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from tests.conftest import start_stack
from tests.keys import KEY, NO_WORKER, Operator, callers
from tests.rest import Headers, client_on, problem_of
from tests.support import Stack
from tests.written import Connection

Callers = Callable[[str, str], Headers]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("unattended")) as started:
        yield started


@pytest.fixture(scope="module")
def caller(stack: Stack) -> Callers:
    return callers(stack)


@pytest.fixture(scope="module")
async def rest(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with client_on(stack.settings(**NO_WORKER)) as client:
        yield client


@pytest.fixture
async def operator(rest: httpx.AsyncClient, caller: Callers, owner_conn: Connection) -> Operator:
    """An operator of a key that nothing is under way for."""
    await owner_conn.execute("DELETE FROM jobs")
    return Operator(rest, caller("operator", "olga"))


@pytest.fixture
async def rotator_conn(stack: Stack) -> AsyncIterator[Connection]:
    """A connection as a worker's."""
    connection = await asyncpg.connect(stack.local.rotator_database_url)
    yield connection
    await connection.close()


async def end(conn: Connection, job_id: str, *, reason: str | None = None, failed: int = 0) -> None:
    """What a worker writes when a job is over."""
    await conn.execute(
        "UPDATE jobs SET state = CASE WHEN $2::text IS NULL THEN 'done' ELSE 'failed' END, reason = $2, failed = $3,"
        " started_at = now(), ended_at = now() WHERE id = $1",
        UUID(job_id),
        reason,
        failed,
    )


@pytest.mark.parametrize(("what", "body"), [("rotate", None), ("rewrap", None), ("retire", {"below_version": 1})])
async def test_what_nobody_does_in_time_is_202_with_the_jobs_address(what: str, body: Any, operator: Operator) -> None:
    answer = await operator.ask(what, body)
    job = answer.json()
    assert (answer.status_code, job["state"], job["kind"]) == (202, "waiting", what)
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert await operator.get(answer.headers["location"]) == {**job, "failures": []}
    assert (job["requested_by"], job["request_id"]) == ("operator:olga", answer.headers["x-request-id"])


async def test_asked_for_by_many_at_once_it_is_one_job(operator: Operator, caller: Callers) -> None:
    others = [Operator(operator.rest, caller("operator", name)) for name in ("olga", "otto", "oona")]
    answers = await asyncio.gather(*(each.ask(what) for each in others for what in ("rotate", "rewrap") * 4))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 2


async def test_a_job_of_one_key_is_in_no_other_keys_way(operator: Operator) -> None:
    other = Operator(operator.rest, operator.headers, "credentials-polygon")
    one, another = await operator.ask("rewrap"), await other.ask("rewrap")
    assert one.json()["id"] != another.json()["id"]
    assert [job["id"] for job in (await other.get("/report"))["jobs"]] == [another.json()["id"]]


async def test_another_retirement_while_one_is_under_way_is_409(operator: Operator, stack: Stack) -> None:
    assert stack.vault("POST", f"transit/keys/{KEY}/rotate").is_success
    assert (await operator.ask("retire", {"below_version": 1})).status_code == 202
    assert (await operator.ask("retire", {"below_version": 1})).status_code == 202
    answer = await operator.ask("retire", {"below_version": 2})
    assert problem_of(answer)[:2] == (409, "job-under-way")


async def test_a_rewrap_that_is_being_stopped_is_not_taken_for_a_new_one(
    operator: Operator, caller: Callers, rotator_conn: Connection
) -> None:
    job = (await operator.ask("rewrap")).json()["id"]
    otto = Operator(operator.rest, caller("operator", "otto"))
    for _ in range(2):  # the second time nothing changes
        answer = await otto.rest.post(f"/v1/jobs/{job}/stop", headers=otto.headers)
        assert (answer.status_code, answer.json()["stop_requested_by"]) == (202, "operator:otto")
        otto = operator
    assert problem_of(await operator.ask("rewrap"))[:2] == (409, "job-under-way")
    await end(rotator_conn, job, reason="stopped")
    assert (await operator.get(f"/v1/jobs/{job}"))["reason"] == "stopped"
    assert (await operator.ask("rewrap")).json()["id"] != job


async def test_stopping_what_is_over_changes_nothing(operator: Operator, rotator_conn: Connection) -> None:
    job = (await operator.ask("rewrap")).json()["id"]
    await end(rotator_conn, job)
    before = await operator.get(f"/v1/jobs/{job}")
    answer = await operator.rest.post(f"/v1/jobs/{job}/stop", headers=operator.headers)
    assert (answer.status_code, answer.json()["state"], answer.json()["stop_requested_by"]) == (202, "done", None)
    assert await operator.get(f"/v1/jobs/{job}") == before


async def ended_while_waited_for(
    operator: Operator, stack: Stack, what: str, body: Any, ending: Callable[[str], Any]
) -> httpx.Response:
    """The answer to a request that waits, whose job is ended meanwhile."""
    async with client_on(stack.settings(**{**NO_WORKER, "job_wait_seconds": 60})) as patient:
        asking = asyncio.create_task(Operator(patient, operator.headers).ask(what, body))
        async with asyncio.timeout(30):
            while not (jobs := (await operator.get("/report"))["jobs"]):  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.02)
        await ending(jobs[0]["id"])
        return await asking


async def test_a_rotation_is_waited_for_and_answered_with_the_key(
    operator: Operator, stack: Stack, rotator_conn: Connection
) -> None:
    answer = await ended_while_waited_for(operator, stack, "rotate", None, lambda job: end(rotator_conn, job))
    assert answer.status_code == 200
    assert answer.json() == await operator.get()


async def test_a_job_that_fails_while_it_is_waited_for_is_409_and_named(
    operator: Operator, stack: Stack, rotator_conn: Connection
) -> None:
    failed: list[str] = []

    async def fail(job: str) -> None:
        failed.append(job)
        await end(rotator_conn, job, reason="vault_denied")

    answer = await ended_while_waited_for(operator, stack, "rotate", None, fail)
    assert problem_of(answer)[:2] == (409, "job-failed")
    assert answer.json()["job"] == failed[0]
    assert (await operator.get(f"/v1/jobs/{failed[0]}"))["reason"] == "vault_denied"


async def test_what_is_in_a_retirements_way_is_counted_and_listed(
    operator: Operator, stack: Stack, rotator_conn: Connection
) -> None:
    in_the_way = [str(uuid4()) for _ in range(3)]

    async def refuse(job: str) -> None:
        for each in in_the_way:
            await rotator_conn.execute(
                "INSERT INTO job_failures VALUES ($1, $2, 'still_needed')", UUID(job), UUID(each)
            )
        await end(rotator_conn, job, reason="still_needed", failed=777)

    answer = await ended_while_waited_for(operator, stack, "retire", {"below_version": 1}, refuse)
    assert problem_of(answer)[:2] == (409, "versions-still-needed")
    assert (answer.json()["count"], answer.json()["credentials"]) == (777, sorted(in_the_way))


async def test_a_running_rewrap_tells_how_far_it_is_and_how_long_it_takes(
    operator: Operator, rotator_conn: Connection
) -> None:
    job = (await operator.ask("rewrap")).json()
    assert job["remaining_seconds"] is None
    await rotator_conn.execute(
        "UPDATE jobs SET state = 'running', started_at = now() - interval '100 seconds', heartbeat_at = now(),"
        " total = 1000, done = 250, failed = 10, to_version = 2 WHERE id = $1",
        UUID(job["id"]),
    )
    report = await operator.get("/report")
    assert report["rewrap"] == report["jobs"][0]
    assert (report["rewrap"]["done"], report["rewrap"]["failed"], report["rewrap"]["total"]) == (250, 10, 1000)
    assert report["rewrap"]["remaining_seconds"] == 296


async def test_a_retirement_above_the_newest_version_is_no_job(operator: Operator) -> None:
    newest = (await operator.get())["latest_version"]
    answer = await operator.ask("retire", {"below_version": newest + 1})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "below_version")
    assert (await operator.get("/report"))["jobs"] == []


async def test_a_retirement_that_did_not_get_to_its_end_is_said_once_it_is_over(
    operator: Operator, rotator_conn: Connection, stack: Stack
) -> None:
    other = Operator(operator.rest, operator.headers, "credentials-polygon")
    assert stack.vault("POST", "transit/keys/credentials-polygon/rotate").is_success
    job = (await other.ask("retire", {"below_version": 2})).json()["id"]
    await rotator_conn.execute("UPDATE key_floors SET min_version = 2 WHERE transit_key = 'credentials-polygon'")
    assert (await other.get())["warnings"] == []  # it is under way
    await end(rotator_conn, job, reason="vault_denied")
    (warning,) = (await other.get())["warnings"]
    assert "a retirement did not get to its end" in warning


async def test_only_known_credential_types_keys_with_a_floor_are_listed(
    operator: Operator, owner_conn: Connection
) -> None:
    await owner_conn.execute("DELETE FROM key_floors WHERE transit_key = $1", KEY)
    try:
        told = await operator.get("/v1/keys")
        refused = await operator.ask("rotate")
    finally:
        await owner_conn.execute("INSERT INTO key_floors (transit_key) VALUES ($1)", KEY)
    assert [key["name"] for key in told["keys"]] == ["credentials-polygon"]
    assert problem_of(refused)[:2] == (404, "key-not-found")
