"""Handing off while Vault, or what is before it, is in trouble: nothing is handed out, and a second event says so."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.doubles.before_vault import BeforeVault
from tests.doubles.scripted_server import (
    Answer,
    cut_answer,
    html_answer,
    json_answer,
    redirect_answer,
    reset_answer,
)
from tests.evidence import AuditLog, every_log_line
from tests.handing_off import events_of, handed_off
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection


@pytest.fixture(scope="module")
async def vault(stack: Stack) -> AsyncIterator[BeforeVault]:
    async with BeforeVault(stack.vault_addr) as server:
        yield server


@pytest.fixture(scope="module")
async def rest(stack: Stack, vault: BeforeVault) -> AsyncIterator[httpx.AsyncClient]:
    async with client_on(stack.settings(vault_addr=vault.url, vault_timeout=2.0, vault_retries=3)) as client:
        yield client


@pytest.fixture
def robot(bearer: Callable[..., Headers], vault: BeforeVault) -> Headers:
    vault.fault, vault.dropped, vault.decryptions = None, "", 0
    return {**bearer("orchestrator", "robot"), "X-User-Id": some_user()}


def errors(*told: str) -> dict[str, list[str]]:
    return {"errors": list(told)}


def _wrapped(**changes: Any) -> Answer:
    info = {
        "token": "hvs." + "a" * 90,
        "ttl": 30,
        "creation_time": "2026-01-31T12:00:00Z",
        "creation_path": "transit/decrypt/credentials-alpaca",
    }
    return json_answer(200, {"data": None, "auth": None, "wrap_info": info | changes})


UNREADABLE = (409, "credential-unreadable", None)
# What is answered in Vault's place; what the caller is told; the failure event's reason.
TROUBLE: dict[str, tuple[Answer, tuple[int, str, str | None], str]] = {
    "sealed": (json_answer(503, errors("Vault is sealed")), (503, "vault-sealed", "10"), "unavailable"),
    "a standby": (json_answer(473, errors()), (503, "vault-standby", "2"), "unavailable"),
    "throttled": (json_answer(429, errors(), {"Retry-After": "7"}), (503, "vault-throttled", "7"), "unavailable"),
    "denied": (json_answer(403, errors("permission denied")), (502, "vault-denied", None), "vault_refused"),
    "refused": (json_answer(400, errors("no")), (502, "vault-refused", None), "vault_refused"),
    "a fault": (json_answer(500, errors("internal error")), (503, "vault-unavailable", "2"), "unavailable"),
    "a balancer's page": (html_answer(502), (503, "vault-unavailable", "2"), "unavailable"),
    "not Vault": (html_answer(200), (503, "vault-unavailable", "5"), "unavailable"),
    "a redirect": (redirect_answer("http://127.0.0.1:9/", 307), (503, "vault-standby", "2"), "unavailable"),
    "cut off": (cut_answer(200), (503, "vault-unavailable", "2"), "unavailable"),
    "reset": (reset_answer, (503, "vault-unavailable", "2"), "unavailable"),
    "of another": (
        _wrapped(creation_path="transit/decrypt/credentials-polygon"),
        (503, "vault-unavailable", "5"),
        "unavailable",
    ),
    "for longer": (_wrapped(ttl=3600), (503, "vault-unavailable", "5"), "unavailable"),
    "tampered with": (
        json_answer(400, errors("cipher: message authentication failed")),
        UNREADABLE,
        "ciphertext_rejected",
    ),
}


@pytest.mark.parametrize(("fault", "told", "reason"), TROUBLE.values(), ids=TROUBLE.keys())
async def test_in_trouble_nothing_is_handed_out_vault_is_asked_once_and_the_failure_is_recorded(
    fault: Answer,
    told: tuple[int, str, str | None],
    reason: str,
    rest: httpx.AsyncClient,
    robot: Headers,
    vault: BeforeVault,
    owner_conn: Connection,
) -> None:
    made = await stored(rest, robot)
    path = f"/v1/credentials/{made['id']}/handoff"
    vault.fault = fault
    answer = await rest.post(path, headers=robot)
    assert problem_of(answer) == told
    assert "hvs." not in answer.text
    assert vault.decryptions == 1
    granted, failed = await events_of(owner_conn, made["id"])
    assert (granted["outcome"], failed["outcome"], failed["reason"]) == ("granted", "failed", reason)
    assert failed["batch_id"] == granted["batch_id"]
    vault.fault = None
    assert (await handed_off(rest, robot, path))["wrapping_token"].startswith("hvs.")


async def test_an_answer_that_is_not_wrapped_after_all_is_refused_and_wiped(
    rest: httpx.AsyncClient, robot: Headers, vault: BeforeVault, owner_conn: Connection, stack: Stack
) -> None:
    """Something before Vault drops the header: the plaintext comes here, and goes nowhere."""
    keys = new_body()
    made = await stored(rest, robot, **keys)
    vault.dropped = "X-Vault-Wrap-TTL"
    log = AuditLog(stack)
    with every_log_line() as lines:
        answer = await rest.post(f"/v1/credentials/{made['id']}/handoff", headers=robot)
    assert problem_of(answer) == (503, "vault-unavailable", "5")
    assert len(log.decryptions()) == 1
    assert [each["outcome"] for each in await events_of(owner_conn, made["id"])] == ["granted", "failed"]
    for secret in (keys["api_key"], keys["secret_key"]):
        assert secret not in answer.text + repr(answer.headers) + "".join(lines)


async def test_a_ciphertext_that_was_rewrapped_away_meanwhile_is_found_where_it_is_now(
    rest: httpx.AsyncClient, robot: Headers, vault: BeforeVault, owner_conn: Connection
) -> None:
    """Transit says too old, once: then the row is read again, and each try has an event and an id of its own."""
    made = await stored(rest, robot)

    async def too_old(request: web.Request) -> web.StreamResponse:
        vault.fault = None
        told = "ciphertext or signature version is disallowed by policy (too old)"
        return await json_answer(400, errors(told))(request)

    vault.fault = too_old
    handed = await handed_off(rest, robot, f"/v1/credentials/{made['id']}/handoff")
    events = await events_of(owner_conn, made["id"])
    assert [(each["outcome"], each["reason"]) for each in events] == [
        ("granted", None),
        ("failed", "key_version_retired"),
        ("granted", None),
    ]
    assert events[0]["batch_id"] == events[1]["batch_id"] != events[2]["batch_id"]
    assert str(events[2]["batch_id"]) == handed["handoff_id"]


async def test_with_vault_down_nothing_is_handed_out(
    robot: Headers, rest: httpx.AsyncClient, stack: Stack, owner_conn: Connection
) -> None:
    made = await stored(rest, robot)
    async with client_on(stack.settings(vault_addr="http://127.0.0.1:1", vault_retries=0)) as client:
        # The issuer is this Vault too, by another way.
        answer = await client.post(f"/v1/credentials/{made['id']}/handoff", headers=robot)
    assert problem_of(answer)[:2] == (503, "vault-unavailable")
    assert [each["outcome"] for each in await events_of(owner_conn, made["id"])] == ["granted", "failed"]


async def test_where_the_database_is_down_vault_is_not_asked(
    rest: httpx.AsyncClient, robot: Headers, stack: Stack
) -> None:
    made = await stored(rest, robot)
    log = AuditLog(stack)
    async with client_on(stack.settings(database_url="postgresql://u:p@127.0.0.1:1/d")) as client:
        answer = await client.post(f"/v1/credentials/{made['id']}/handoff", headers=robot)
    assert problem_of(answer)[:2] == (503, "database-unavailable")
    assert log.decryptions() == []
