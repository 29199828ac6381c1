"""Liveness and readiness over REST: each thing the service needs, missing in turn, and fixed text alone answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from service.errors import (
    DatabaseNotReady,
    DatabaseUnavailable,
    InstallationMismatch,
    VaultDenied,
    VaultLoginFailed,
    VaultSealed,
    VaultUnavailable,
)
from service.postgres.migrate import LATEST_VERSION, migrate
from tests.databases import in_database, own_database
from tests.rest import client_on, new_body, problem_of
from tests.support import Stack

CHECKS = ["vault", "transit", "postgres", "installation"]
CLOSED = "127.0.0.1:1"
Report = dict[str, str]


def text(error: type[Exception]) -> str:
    """An error's public text."""
    return (error.__doc__ or "").strip()


async def readiness(client: httpx.AsyncClient) -> tuple[int, Report]:
    """The status, and what each check says; liveness is asked beside it, and does not depend on any of them."""
    alive = await client.get("/healthz")
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    answer = await client.get("/readyz")
    told = answer.json()
    assert [check["name"] for check in told["checks"]] == [*CHECKS, "skew"]
    assert all(check["ok"] == (check["detail"] == "ok") for check in told["checks"])
    *blocking, skew = told["checks"]
    if answer.status_code == 200:
        assert told["status"] == ("ready" if skew["ok"] else "degraded")
    else:
        assert told["status"] == "not ready"
    # Other tests leave credentials on the shared stack that don't fit; what `skew` says is in test_restore_drill.py.
    return answer.status_code, {check["name"]: check["detail"] for check in blocking}


async def readiness_on(stack: Stack, **trouble: Any) -> tuple[int, Report]:
    async with client_on(stack.settings(**trouble)) as client:
        return await readiness(client)


def not_ready(**details: type[Exception]) -> tuple[int, Report]:
    """What is answered when just these checks fail."""
    return 503, dict.fromkeys(CHECKS, "ok") | {name: text(error) for name, error in details.items()}


@asynccontextmanager
async def migrated_database(stack: Stack) -> AsyncIterator[str]:
    """A database of the test's own, migrated; its installation id is another than Vault's."""
    async with own_database(stack) as name:
        await migrate(in_database(stack.owner_url, name), transit_keys=["credentials-alpaca", "credentials-polygon"])
        yield name


async def as_owner(stack: Stack, database: str, statement: str, *args: Any) -> None:
    conn = await asyncpg.connect(in_database(stack.owner_url, database))
    await conn.execute(statement, *args)
    await conn.close()


async def test_with_everything_there_the_service_is_ready(client: httpx.AsyncClient) -> None:
    assert await readiness(client) == (200, dict.fromkeys(CHECKS, "ok"))


async def test_neither_needs_a_token_nor_minds_a_bad_one(client: httpx.AsyncClient) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"X-User-Id": "bob"}):
        assert (await client.get("/healthz", headers=headers)).status_code == 200
        assert (await client.get("/readyz", headers=headers)).status_code == 200


async def test_postgres_that_cannot_be_reached(stack: Stack) -> None:
    got = await readiness_on(stack, database_url=f"postgresql://u:p@{CLOSED}/d")
    assert got == not_ready(postgres=DatabaseUnavailable, installation=DatabaseUnavailable)


async def test_postgres_that_refuses_the_login(stack: Stack) -> None:
    name, _, host = stack.runtime_url.rpartition("@")
    wrong = f"{name.rpartition(':')[0]}:wrong@{host}"
    status, report = await readiness_on(stack, database_url=wrong)
    if status == 200:
        pytest.skip("this Postgres trusts every login from this machine")
    assert (status, report) == not_ready(postgres=DatabaseNotReady, installation=DatabaseNotReady)


async def test_a_database_that_is_not_there(stack: Stack) -> None:
    got = await readiness_on(stack, database_url=in_database(stack.runtime_url, f"test_{uuid4().hex}"))
    assert got == not_ready(postgres=DatabaseNotReady, installation=DatabaseNotReady)


async def test_a_database_that_is_not_migrated(stack: Stack) -> None:
    async with own_database(stack) as name:
        got = await readiness_on(stack, database_url=in_database(stack.runtime_url, name))
    assert got == not_ready(postgres=DatabaseNotReady, installation=DatabaseNotReady)


@pytest.mark.parametrize("change", [-100, 1])
async def test_a_database_of_another_version_is_ready_if_it_is_a_newer_one(change: int, stack: Stack) -> None:
    async with migrated_database(stack) as name:
        changed = "UPDATE schema_migrations SET version = version + $1 WHERE version = $2"
        await as_owner(stack, name, changed, change, LATEST_VERSION)
        await as_owner(stack, name, "UPDATE installation SET id = $1", stack.installation_id)
        got = await readiness_on(stack, database_url=in_database(stack.runtime_url, name))
    assert got == (not_ready(postgres=DatabaseNotReady) if change < 0 else (200, dict.fromkeys(CHECKS, "ok")))


async def test_a_database_of_another_installation(stack: Stack) -> None:
    async with migrated_database(stack) as name:
        url = in_database(stack.runtime_url, name)
        assert await readiness_on(stack, database_url=url) == not_ready(installation=InstallationMismatch)
        await as_owner(stack, name, "UPDATE installation SET id = $1", stack.installation_id)
        assert await readiness_on(stack, database_url=url) == (200, dict.fromkeys(CHECKS, "ok"))


async def test_a_vault_that_cannot_be_reached(stack: Stack) -> None:
    got = await readiness_on(stack, vault_addr=f"http://{CLOSED}", vault_retries=0)
    assert got == not_ready(vault=VaultUnavailable, transit=VaultUnavailable, installation=VaultUnavailable)


async def test_a_vault_that_refuses_the_login(stack: Stack) -> None:
    got = await readiness_on(stack, vault_role_id=str(uuid4()))
    assert got == not_ready(transit=VaultLoginFailed, installation=VaultLoginFailed)


# What the service's policy may lack: the policy, and the checks that notice.
POLICIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "everything": ("", ("transit", "installation")),
    "decrypt": (
        'path "transit/encrypt/*" { capabilities = ["update"] }\n'
        'path "credentials/data/installation" { capabilities = ["read"] }',
        ("transit",),
    ),
    "encrypt": (
        'path "transit/decrypt/*" { capabilities = ["update"] }\n'
        'path "credentials/data/installation" { capabilities = ["read"] }',
        ("transit",),
    ),
    "KV": ('path "transit/*" { capabilities = ["update"] }', ("installation",)),
}


@pytest.mark.parametrize(("policy", "failing"), POLICIES.values(), ids=POLICIES.keys())
async def test_a_policy_that_lacks_something(
    policy: str, failing: tuple[str, ...], stack: Stack, tmp_path: Path
) -> None:
    name = f"test-{uuid4().hex}"
    stack.vault("PUT", f"sys/policies/acl/{name}", {"policy": policy or 'path "nothing" { capabilities = ["deny"] }'})
    made = stack.vault("POST", "auth/token/create", {"policies": [name], "no_default_policy": True, "ttl": "1m"})
    file = tmp_path / "token"
    file.write_text(made.json()["auth"]["client_token"])
    got = await readiness_on(stack, vault_login="token_file", vault_token_file=file)
    assert got == not_ready(**dict.fromkeys(failing, VaultDenied))
    stack.vault("DELETE", f"sys/policies/acl/{name}")


@pytest.mark.parametrize(
    "trouble",
    [
        {"database_url": "postgresql://canary-user:canary-password@canary-host.invalid/canary-db"},
        {"vault_addr": "https://canary-vault.invalid", "vault_retries": 0},
        {"vault_role_id": "canary-role"},
        {"transit_key_prefix": "canary-key-"},
        {"kv_mount": "canary-mount"},
    ],
    ids=lambda trouble: next(iter(trouble)),
)
async def test_the_report_tells_none_of_the_settings(trouble: dict[str, Any], stack: Stack) -> None:
    async with client_on(stack.settings(**trouble)) as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "canary" not in answer.text
    assert answer.headers["content-type"] == "application/json"


async def test_a_sealed_vault_is_told_apart_and_serves_again_when_unsealed(private_stack: Stack) -> None:
    """On a real Vault that is really sealed: readiness, the routes that need it, and those that don't."""
    owner = {"Authorization": f"Bearer {private_stack.mint('user', 'alice')}"}
    async with client_on(private_stack.settings()) as client:
        assert (await readiness(client))[0] == 200
        made = await client.post("/v1/credentials", json=new_body(), headers=owner)
        path = made.headers["location"]
        assert private_stack.vault("PUT", "sys/seal").is_success
        await _ages()
        status, report = await readiness(client)
        assert status == 503
        assert (report["vault"], report["postgres"]) == (text(VaultSealed), "ok")
        assert report["transit"] == report["installation"] == text(VaultSealed)
        for method, address, body in (
            ("POST", "/v1/credentials", new_body()),
            ("PATCH", path, {"secret_key": "SK"}),
            ("POST", f"{path}/validate", None),
        ):
            answer = await client.request(method, address, json=body, headers=owner)
            assert problem_of(answer) == (503, "vault-sealed", "10")
        assert (await client.get(path, headers=owner)).status_code == 200
        unseal(private_stack)
        await _ages()
        assert (await readiness(client))[0] == 200
        assert (await client.patch(path, json={"secret_key": "SK"}, headers=owner)).status_code == 200


async def _ages() -> None:
    """A round of checks is kept for a second."""
    await asyncio.sleep(1.1)


def unseal(stack: Stack) -> None:
    """With the key that the launcher keeps."""
    kept = json.loads((stack.local.state_dir / "init.json").read_text())
    assert stack.vault("PUT", "sys/unseal", {"key": kept["unseal_key"]}).json()["sealed"] is False
