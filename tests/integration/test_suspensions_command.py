"""`vault-credentials suspensions` against a real service."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.rest import Headers, new_body
from tests.stored import some_user

COMMAND = [str(Path(sys.executable).with_name("vault-credentials")), "suspensions"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """One finished command. Its environment is what is given and nothing of the shell's."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "200", **environment},
    )


@pytest.fixture(scope="module")
def suspensions(server: str, bearer: Callable[..., Headers]) -> Run:
    """The command, as an operator."""
    token = bearer("operator", "olga")["Authorization"].removeprefix("Bearer ")
    environment = {"SERVICE_URL": server, "CREDENTIALS_TOKEN": token}
    return lambda *arguments, **more: run({**environment, **more}, *arguments)


def told(done: "subprocess.CompletedProcess[str]") -> Any:
    """What a command with --json printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_user_is_suspended_listed_and_resumed_and_meanwhile_nothing_is_handed_off(
    suspensions: Run, server: str, bearer: Callable[..., Headers]
) -> None:
    user = some_user()
    acting = {**bearer("orchestrator", "bot"), "X-User-Id": user}
    with httpx.Client(base_url=server, headers=acting, trust_env=False) as client:
        made = client.post("/v1/credentials", json=new_body()).json()
        credential_id, account = made["id"], made["account_id"]

        def hand_off() -> int:
            return client.post(f"/v1/credentials/{credential_id}/handoff").status_code

        assert hand_off() == 200
        done = suspensions("suspend", "--user", user, "--reason", "stolen laptop")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"user {user}: 1 credential, since ")
        assert done.stderr == ""
        assert done.stdout.endswith(" by operator:olga: stolen laptop\n")
        assert hand_off() == 403
        assert done.stdout in suspensions("list").stdout
        (listed,) = (each for each in told(suspensions("list", "--json"))["suspensions"] if each["user_id"] == user)
        assert listed == told(suspensions("suspend", "--user", user, "--json"))
        assert (listed["reason"], listed["account_id"]) == ("stolen laptop", None)
        again = suspensions("suspend", "--user", user, "--reason", "another")
        assert again.stdout == done.stdout
        assert "it was suspended before" in again.stderr
        assert suspensions("suspend", "--account", account).stderr == ""
        resumed = suspensions("resume", "--user", user)
        assert resumed.stdout == "resumed\n"
        assert "others are still suspended" in resumed.stderr
        assert hand_off() == 403
        assert suspensions("resume", "--account", account).stdout == "resumed\n"
        assert hand_off() == 200
    again = suspensions("resume", "--user", user)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "vault-credentials: There is no such suspension.\n"


def test_an_account_is_suspended_and_resumed(suspensions: Run) -> None:
    account = str(uuid4())
    done = suspensions("suspend", "--account", account)
    assert done.stdout.startswith(f"account {account}: 0 credentials, since ")
    assert "is it written right?" in done.stderr  # in force all the same
    assert f"account {account}" in suspensions("list").stdout
    assert suspensions("resume", "--account", account).returncode == 0
    assert account not in suspensions("list").stdout


@pytest.mark.parametrize("name", ["{}/b", "../{}", "{}..", "{} b?c#d%2Fé", "{}%"])
def test_whatever_a_user_is_called_it_is_that_user(name: str, suspensions: Run) -> None:
    user = name.format(some_user())
    assert told(suspensions("suspend", "--user", user, "--json"))["user_id"] == user
    assert suspensions("resume", "--user", user).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("suspend",),
        ("resume",),
        ("suspend", "--user", "alice", "--account", "6f9619ff-8b86-4011-b42d-00c04fc964ff"),
        ("resume", "--user", "", "--account", ""),
    ],
)
def test_one_of_user_and_account_is_named_and_not_both(arguments: tuple[str, ...], suspensions: Run) -> None:
    refused = suspensions(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "name either --user or --account" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("suspend", "--user", ""), "user_id: "),
        (("suspend", "--user", "a\nb"), ""),
        (("suspend", "--account", "canary"), "account_id: must be a UUID"),
        (("resume", "--account", "../users/alice"), "There is nothing at this address"),
        (("suspend", "--user", "u", "--reason", "x" * 201), "reason: "),
        (("suspend", "--user", "u", "--reason", "\x1b[2J"), "reason: "),
    ],
)
def test_what_the_service_refuses_is_said_with_its_field_and_exit_status_1(
    arguments: tuple[str, ...], said: str, suspensions: Run
) -> None:
    refused = suspensions(*arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert said in refused.stderr
    assert "canary" not in refused.stderr
    assert "\x1b" not in refused.stderr


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_no_address_can_hold_is_refused_and_nothing_else_is_asked_for(name: str, suspensions: Run) -> None:
    refused = suspensions("suspend", "--user", name, SERVICE_URL="http://127.0.0.1:1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "one or two dots" in refused.stderr


def test_who_may_not_suspend_is_told_so(suspensions: Run, bearer: Callable[..., Headers]) -> None:
    user = some_user()
    for role in ("user", "orchestrator", "auditor"):
        token = bearer(role, "somebody")["Authorization"].removeprefix("Bearer ")
        denied = suspensions("suspend", "--user", user, CREDENTIALS_TOKEN=token)
        assert (denied.returncode, denied.stderr) == (1, "vault-credentials: This caller may not do this.\n")
        assert token not in denied.stdout + denied.stderr
    assert user not in suspensions("list").stdout


def test_a_service_that_does_not_answer_is_said(suspensions: Run) -> None:
    refused = suspensions("suspend", "--user", "alice", SERVICE_URL="http://127.0.0.1:1")
    assert refused.returncode == 1
    assert refused.stderr == "vault-credentials: no answer from the service at http://127.0.0.1:1\n"


def test_help_says_what_a_suspension_does_and_what_it_does_not() -> None:
    shown = " ".join(run({}, "suspend", "--help").stdout.split())
    assert "no replica opens, hands off or calls a provider for it" in shown
    assert "Hand-offs that are out last until their time is over" in shown
