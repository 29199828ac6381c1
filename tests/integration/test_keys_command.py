"""`vault-credentials keys` against a real service with a worker in it, on a stack of this module's own."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.conftest import start_stack
from tests.keys import KEY, WORKER, callers
from tests.rest import Headers, new_body
from tests.stored import some_user
from tests.support import Stack, serving
from tests.written import Connection

COMMAND = [str(Path(sys.executable).with_name("vault-credentials")), "keys"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(environment: Mapping[str, str], *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    """One finished command. Its environment is what is given and nothing of the shell's."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "200", **environment},
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("command")) as started:
        yield started


@pytest.fixture(scope="module")
def caller(stack: Stack) -> Callable[[str, str], Headers]:
    return callers(stack)


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with serving(stack.settings(**WORKER)) as served:
        yield served


@pytest.fixture(scope="module")
def keys(url: str, caller: Callable[[str, str], Headers]) -> Run:
    """`vault-credentials keys`, as an operator."""
    token = caller("operator", "olga")["Authorization"].removeprefix("Bearer ")
    environment = {"SERVICE_URL": url, "CREDENTIALS_TOKEN": token}
    return lambda *arguments, typed="", **more: run({**environment, **more}, *arguments, typed=typed)


def told(done: "subprocess.CompletedProcess[str]") -> Any:
    """What a command with --json printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def somebodys(url: str, caller: Callable[[str, str], Headers]) -> list[str]:
    """Two credentials of a new user."""
    headers = caller("user", some_user())
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
        return [client.post("/v1/credentials", json=new_body()).json()["id"] for _ in range(2)]


def test_keys_are_listed_and_shown(keys: Run, somebodys: list[str]) -> None:
    listed = keys("list")
    assert listed.returncode == 0, listed.stderr
    assert KEY in listed.stdout
    assert "credentials-polygon" in listed.stdout
    assert [key["name"] for key in told(keys("list", "--json"))["keys"]] == [KEY, "credentials-polygon"]
    shown = keys("show", KEY)
    assert "not by itself" in shown.stdout
    key = told(keys("show", KEY, "--json"))
    assert key["versions"][-1]["oldest_credential_id"] in shown.stdout


def test_a_key_is_rotated_rewrapped_to_and_retired_and_the_report_tells_who_did_it(
    keys: Run, somebodys: list[str], stack: Stack
) -> None:
    before = told(keys("show", KEY, "--json"))["latest_version"]
    rotated = keys("rotate", KEY)
    assert rotated.returncode == 0, rotated.stderr
    newest = str(before + 1)
    refused = keys("retire", KEY, "--below", newest)
    assert refused.returncode == 1
    assert "Nothing was retired" in refused.stdout
    assert all(each in refused.stdout for each in somebodys)
    document = json.loads(keys("retire", KEY, "--below", newest, "--json").stdout)
    assert set(somebodys) <= set(document["credentials"])
    rewrapped = keys("rewrap", KEY)
    assert rewrapped.returncode == 0, rewrapped.stderr
    assert re.fullmatch(r"rewrap done: (\d+) of \1 credentials\n", rewrapped.stdout)
    assert told(keys("rewrap", KEY, "--json"))["state"] == "done"
    retired = keys("retire", KEY, "--below", newest)
    assert retired.returncode == 0, retired.stderr
    assert "retired" in retired.stdout
    report = keys("report", KEY)
    for said in ("operator:olga", f"rewrap to {newest}", f"retire below {newest}", "failed: still needed"):
        assert said in report.stdout
    # An address is on one line, whatever the terminal's width.
    narrow = keys("report", KEY, COLUMNS="60").stdout
    assert f"{stack.vault_addr}/ui/vault/secrets/transit/show/{KEY}?tab=versions\n" in narrow
    assert len(told(keys("jobs", KEY, "--json"))["jobs"]) == 6
    assert "retire below" in keys("jobs").stdout


def test_a_job_that_is_over_is_not_stopped(keys: Run) -> None:
    job = told(keys("rewrap", KEY, "--json"))["id"]
    stopped = keys("stop", job)
    assert (stopped.returncode, stopped.stdout) == (0, "done: 0 of 0 credentials\n")
    assert keys("stop", "6f9619ff-8b86-4011-b42d-00c04fc964ff").stderr == ("vault-credentials: There is no such job.\n")


def test_what_the_service_refuses_is_said_with_its_field_and_exit_status_1(keys: Run, stack: Stack) -> None:
    above = keys("retire", KEY, "--below", "4000")
    assert (above.returncode, above.stdout) == (1, "")
    assert "below_version: must not be above the key's newest version" in above.stderr
    unknown = keys("show", "nothing")
    assert (unknown.returncode, unknown.stderr) == (1, "vault-credentials: There is no such key.\n")
    user = stack.mint("user", "alice")
    denied = keys("rotate", KEY, CREDENTIALS_TOKEN=user)
    assert (denied.returncode, denied.stderr) == (1, "vault-credentials: This caller may not do this.\n")
    assert user not in denied.stdout + denied.stderr


async def test_a_rewrap_that_leaves_credentials_behind_fails_and_names_them(
    keys: Run, somebodys: list[str], stack: Stack, owner_conn: Connection
) -> None:
    assert keys("rotate", KEY).returncode == 0
    broken = somebodys[0]
    found = stack.vault("LIST", "credentials/metadata/").json()["data"]["keys"]
    (path,) = (
        f"{account}{broken}"
        for account in found
        if account.endswith("/")
        and broken in stack.vault("LIST", f"credentials/metadata/{account}").json()["data"]["keys"]
    )
    assert stack.vault("DELETE", f"credentials/metadata/{path}").is_success
    rewrapped = keys("rewrap", KEY)
    assert rewrapped.returncode == 1
    assert "rewrap failed: some failed" in rewrapped.stdout
    assert broken in rewrapped.stdout
    # What Vault has lost is skew, for which other tests here would be refused.
    await owner_conn.execute("DELETE FROM credentials WHERE id = $1", UUID(broken))


# --- where the service is, and whose token it is ----------------------------------------------------------------------


def test_a_local_stack_that_runs_is_found_and_a_token_minted(stack: Stack, url: str) -> None:
    stack.local.note(port=int(url.rpartition(":")[2]))
    local = {"CREDENTIALS_LOCAL_STATE_DIR": str(stack.local.state_dir)}
    assert run(local, "list").returncode == 0
    assert run({}, "--state-dir", str(stack.local.state_dir), "list").returncode == 0
    assert run({**local, "SERVICE_URL": url}, "list").returncode == 0
    # Another address doesn't get a token that works here.
    refused = run({**local, "SERVICE_URL": "http://127.0.0.1:1"}, "list")
    assert refused.returncode == 2
    assert "CREDENTIALS_TOKEN: is not set" in refused.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no stack is running"),
        ({"SERVICE_URL": "http://127.0.0.1:1"}, "CREDENTIALS_TOKEN: is not set"),
        ({"SERVICE_URL": "http://service.example", "CREDENTIALS_TOKEN": "x"}, "SERVICE_URL: must begin with https://"),
        ({"SERVICE_URL": "file:///etc/passwd", "CREDENTIALS_TOKEN": "x"}, "SERVICE_URL: must begin with https://"),
        ({"SERVICE_URL": "http://127.0.0.1:1", "CREDENTIALS_TOKEN": "SECRET\nx"}, "CREDENTIALS_TOKEN: is no bearer"),
        ({"SERVICE_URL": "http://127.0.0.1:1", "CREDENTIALS_TOKEN": "SECRETé"}, "CREDENTIALS_TOKEN: is no bearer"),
    ],
)
def test_what_is_missing_or_wrong_in_the_environment_is_named(
    environment: Mapping[str, str], said: str, tmp_path: Path
) -> None:
    refused = run({"CREDENTIALS_LOCAL_STATE_DIR": str(tmp_path), **environment}, "list")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert said in refused.stderr
    assert "SECRET" not in refused.stderr


def test_a_service_that_does_not_answer_is_said(keys: Run) -> None:
    refused = keys("list", SERVICE_URL="http://127.0.0.1:1")
    assert (refused.returncode, refused.stderr) == (
        1, "vault-credentials: no answer from the service at http://127.0.0.1:1\n",
    )  # fmt: skip


# --- trimming ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def person(stack: Stack) -> dict[str, str]:
    """A security operator's own login to Vault."""
    made = stack.vault(
        "POST",
        "auth/token/create",
        {"policies": ["credentials-operator"], "no_default_policy": True, "no_parent": True},
    )
    return {"VAULT_ADDR": stack.vault_addr, "VAULT_TOKEN": str(made.json()["auth"]["client_token"])}


def available(stack: Stack, key: str) -> int:
    """The oldest version that Vault still has."""
    return int(stack.vault("GET", f"transit/keys/{key}").json()["data"]["min_available_version"])


async def test_versions_are_trimmed_by_a_person_once_they_are_retired_and_the_name_is_typed(
    keys: Run, person: dict[str, str], stack: Stack, owner_conn: Connection
) -> None:
    key = "credentials-polygon"  # under which nothing is stored here
    rotated = told(keys("rotate", key, "--json"))
    newest = str(rotated["latest_version"])
    dates = {each["version"]: each["created_at"] for each in rotated["versions"]}
    too_early = keys("trim", key, "--below", newest, "--yes", key, **person)
    assert (too_early.returncode, available(stack, key)) == (1, 0)
    assert f"versions below {newest} are not retired yet" in too_early.stderr
    assert keys("retire", key, "--below", newest).returncode == 0

    nobody = keys("trim", key, "--below", newest, "--yes", key)
    assert (nobody.returncode, available(stack, key)) == (2, 0)
    assert "VAULT_ADDR and VAULT_TOKEN" in nobody.stderr
    for wrong in ({"typed": "credentials-alpaca\n"}, {"typed": "y\n"}, {"typed": "\n"}, {"typed": ""}):
        assert keys("trim", key, "--below", newest, **wrong, **person).returncode != 0
        assert available(stack, key) == 0
    assert keys("trim", key, "--below", newest, "--yes", "yes", **person).returncode == 2

    done = keys("trim", key, "--below", newest, typed=f"{key}\n", **person)
    assert done.returncode == 0, done.stderr
    assert f"below {newest} will be gone from the Vault at {stack.vault_addr} for good" in done.stdout
    assert available(stack, key) == int(newest)
    again = keys("trim", key, "--below", newest, "--yes", key, **person)
    assert (again.returncode, "have been trimmed before" in again.stderr) == (1, True)
    versions = told(keys("show", key, "--json"))["versions"]
    assert {each["version"]: each["created_at"] for each in versions} == dates
    assert [each["state"] for each in versions] == ["in_use", *["trimmed"] * (int(newest) - 1)]


async def test_nothing_is_trimmed_that_something_is_under_whoever_retired_it(
    keys: Run, person: dict[str, str], somebodys: list[str], stack: Stack
) -> None:
    newest = told(keys("rotate", KEY, "--json"))["latest_version"]
    before = told(keys("show", KEY, "--json"))["min_decryption_version"]
    config = f"transit/keys/{KEY}/config"
    assert stack.vault("POST", config, {"min_decryption_version": newest}).is_success  # by hand, past our check
    try:
        refused = keys("trim", KEY, "--below", str(newest), "--yes", KEY, **person)
    finally:
        stack.vault("POST", config, {"min_decryption_version": before})
    assert (refused.returncode, available(stack, KEY)) == (1, 0)
    assert "something is still encrypted under versions below" in refused.stderr


def test_another_vaults_key_is_not_trimmed(keys: Run, person: dict[str, str], stack: Stack) -> None:
    """Told by its versions: a service that knows of fewer is another Vault's."""
    from service.commands.key_trimming import NotTrimmable, Trimming
    from service.localstack.vault_admin import VaultAdmin

    key = told(keys("show", "credentials-polygon", "--json"))
    with VaultAdmin(stack.vault_addr, person["VAULT_TOKEN"]) as vault:
        for other in ({"latest_version": 77}, {"min_decryption_version": 77}):
            with pytest.raises(NotTrimmable, match="another key of this name"):
                Trimming(vault, {**key, **other}, 99).check()


async def test_nothing_is_trimmed_while_vault_and_postgres_are_of_different_moments(
    keys: Run, url: str, person: dict[str, str], somebodys: list[str], stack: Stack, owner_conn: Connection
) -> None:
    """Last in this module: the service goes on saying so for half a minute."""
    key = "credentials-polygon"
    newest = str(told(keys("rotate", key, "--json"))["latest_version"])
    config = {"min_encryption_version": newest}  # as trimming before has left it to be raised
    assert stack.vault("POST", f"transit/keys/{key}/config", config).is_success
    assert keys("retire", key, "--below", newest).returncode == 0
    before = available(stack, key)
    assert keys("rotate", KEY).returncode == 0
    await owner_conn.execute("UPDATE credentials SET pinned_at = pinned_at - interval '1 day'")
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as rest, asyncio.timeout(90):
            while (await rest.get("/readyz")).json()["status"] != "degraded":  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.5)
        refused = keys("trim", key, "--below", newest, "--yes", key, **person)
    finally:
        await owner_conn.execute("UPDATE credentials SET pinned_at = pinned_at + interval '1 day'")
    assert (refused.returncode, available(stack, key)) == (1, before)
    assert "does not say that Vault and Postgres are of the same moment" in refused.stderr
