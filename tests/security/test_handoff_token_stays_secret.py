"""A wrapping token is worth the plaintext: it is in the one answer that hands it out, and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import httpx
import pytest

from tests.conftest import backend
from tests.evidence import audit_file, every_log_line, files_below, found, kv_dump, postgres_dump
from tests.handing_off import handed_off, looked_up, unwrapped
from tests.rest import Headers, client_on, new_body, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection


@dataclass
class Used:
    """The tokens that were handed out, with their keys, and all else that was answered and logged meanwhile."""

    user: str
    secrets: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    logged: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
async def used(stack: Stack, bearer: Callable[..., Headers]) -> Used:
    """Tokens that are used, used twice, reported, left to expire, and out while all else is asked for."""
    use = Used(some_user("handed"))
    robot = {**bearer("orchestrator", "robot"), "X-User-Id": use.user}
    with every_log_line() as use.logged:
        async with client_on(stack.settings()) as client:
            for name in ("used", "used twice", "reported", "out"):
                body = new_body()
                made = await stored(client, robot, **body)
                path = f"/v1/credentials/{made['id']}"
                use.credentials.append(made["id"])
                handed = await handed_off(client, robot, f"{path}/handoff", ttl=120)
                token = handed.pop("wrapping_token")
                use.secrets += [token, token.removeprefix("hvs."), body["api_key"], body["secret_key"]]
                use.answers[f"{name}, beside the token"] = repr(handed)
                if name == "out":
                    use.answers["lookup"] = looked_up(stack, token).text
                if name.startswith("used"):
                    assert unwrapped(stack, token).is_success
                if name == "used twice":
                    use.answers["a second unwrap"] = unwrapped(stack, token).text
                if name == "reported":
                    failure = f"{path}/handoff/{handed['handoff_id']}/failure"
                    for reason in ("already_used", token):
                        answer = await client.post(failure, headers=robot, json={"reason": reason})
                        use.answers[f"report {answer.status_code}"] = _all_of(answer)
                for address in (path, f"{path}/events", "/v1/events", "/metrics", "/readyz", "/v1/credentials"):
                    use.answers[f"{name} {address}"] = _all_of(await client.get(address, headers=robot))
            auditors = bearer("auditor", "audrey")
            use.answers["audited"] = _all_of(await client.get(f"/v1/events?user={use.user}", headers=auditors))
    return use


def _all_of(answer: httpx.Response) -> str:
    return f"{answer.headers!r} {answer.text}"


async def test_it_is_in_no_row_of_postgres(used: Used, owner_conn: Connection) -> None:
    dump = await postgres_dump(owner_conn)
    assert dump.count(used.user) > 8
    assert found(used.secrets, {"Postgres": dump}) == []


def test_it_is_not_in_kv(used: Used, stack: Stack) -> None:
    assert found(used.secrets, {path: repr(each) for path, each in kv_dump(stack).items()}) == []


def test_it_is_not_in_vaults_audit_log(used: Used, stack: Stack) -> None:
    log = audit_file(stack).read_bytes()
    assert b'"wrap_ttl":120' in log
    assert found(used.secrets, {"audit log": log}) == []


@pytest.mark.skipif(backend()[0] != "local", reason="a container's files are not this user's to read")
async def test_it_is_in_no_file_of_either_server(used: Used, stack: Stack, owner_conn: Connection) -> None:
    await owner_conn.execute("CHECKPOINT")
    files = dict(files_below(stack.local.state_dir))
    assert any(used.user.encode() in content for content in files.values())
    assert found(used.secrets, files) == []


def test_it_is_in_no_log_line_at_debug(used: Used) -> None:
    assert len(used.logged) > 30
    assert any("a hand-off was not unwrapped" in line for line in used.logged)
    assert found(used.secrets, {line[:60]: line for line in used.logged}) == []


def test_it_is_in_no_other_answer_event_or_metric(used: Used) -> None:
    assert {"report 204", "report 422"} <= used.answers.keys()
    assert found(used.secrets, used.answers) == []


async def test_its_events_are_of_the_kinds_that_there_are_and_hold_ids_alone(
    used: Used, owner_conn: Connection
) -> None:
    rows = await owner_conn.fetch(
        "SELECT outcome, reason FROM credential_events WHERE credential_id = ANY($1) AND action = 'handoff' "
        "ORDER BY at, id",
        [UUID(each) for each in used.credentials],
    )
    assert [tuple(row) for row in rows] == [("granted", None)] * 3 + [("failed", "already_used"), ("granted", None)]


def test_the_search_finds_a_token_that_is_there(used: Used) -> None:
    assert found(used.secrets, {"here": f"... {used.secrets[0]} ...", "there": "..."}) == ["here"]


async def test_nobody_but_an_orchestrator_is_handed_anything(
    client: httpx.AsyncClient, bearer: Callable[..., Headers], stack: Stack
) -> None:
    """The owner neither: who may have the keys has them, and reads them nowhere."""
    owner = some_user("owner")
    made = await stored(client, bearer("user", owner))
    path = f"/v1/credentials/{made['id']}/handoff"
    callers: dict[str, Headers] = {
        "owner": bearer("user", owner),
        "owner, naming themselves": {**bearer("user", owner), "X-User-Id": owner},
        "operator": bearer("operator", "olga"),
        "operator, for the owner": {**bearer("operator", "olga"), "X-User-Id": owner},
        "auditor": bearer("auditor", "audrey"),
        "auditor, for the owner": {**bearer("auditor", "audrey"), "X-User-Id": owner},
    }
    for caller in callers.values():
        for address, body in ((path, None), (f"{path}/{made['id']}/failure", {"reason": "expired"})):
            answer = await client.post(address, headers=caller, json=body)
            assert answer.status_code == 403
            assert "hvs." not in answer.text
