"""What the doctor says of the callers' issuer and of the rotator's logins, which the service's own checks don't try."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.doubles.oidc_issuer import OidcIssuer
from tests.support import Stack, findings

ROTATOR = "CREDENTIALS_ROTATOR_"


def doctor(stack: Stack, **changes: str | None) -> tuple[int, dict[str, str]]:
    """The exit status, and each finding: `verdict detail` by name. What is changed to None is not set.

    The stack is shared: what other tests left in it may be wrong by itself, so no status is sure to be 0.
    """
    changed = {**os.environ, **stack.local.environment(), **changes}
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "doctor"],
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    return done.returncode, findings(done.stdout)


def with_password(settings: Settings, given: str) -> str:
    """The rotator's URL, with another password."""
    assert settings.rotator_database_url is not None
    url = settings.rotator_database_url.get_secret_value()
    before, at, after = url.rpartition("@")
    return f"{before.rpartition(':')[0]}:{given}{at}{after}"


async def test_the_issuers_keys_are_fetched_and_counted(stack: Stack, issuer: OidcIssuer) -> None:
    issuer.add_key("k2", "RS256")
    _status, found = await asyncio.to_thread(doctor, stack, CREDENTIALS_OIDC_ISSUER=issuer.url)
    assert found["issuer"] == "ok its discovery document and keys can be fetched (keys: 2)"
    assert issuer.key_fetches == 1


async def test_an_issuer_that_answers_wrongly_is_said(stack: Stack, issuer: OidcIssuer) -> None:
    issuer.discovery_changes = {"issuer": "https://another.example"}
    status, found = await asyncio.to_thread(doctor, stack, CREDENTIALS_OIDC_ISSUER=issuer.url)
    assert status == 1
    assert found["issuer"].startswith(
        "wrong its keys cannot be fetched: its discovery document names another issuer; look at CREDENTIALS_OIDC_ISSUER"
    )
    assert found["rotator"].startswith("ok ")


async def test_an_issuer_without_a_key_that_fits_is_wrong(stack: Stack, issuer: OidcIssuer) -> None:
    issuer.published = []
    status, found = await asyncio.to_thread(doctor, stack, CREDENTIALS_OIDC_ISSUER=issuer.url)
    assert (status, found["issuer"]) == (1, "wrong it publishes no key that fits CREDENTIALS_OIDC_ALGORITHMS")


def test_an_issuer_that_is_not_there_is_wrong(stack: Stack) -> None:
    status, found = doctor(stack, CREDENTIALS_OIDC_ISSUER="http://127.0.0.1:1/nope", CREDENTIALS_OIDC_CACERT=None)
    assert status == 1
    assert found["issuer"].startswith("wrong its keys cannot be fetched: no connection; look at")


def test_without_an_issuer_it_is_said_that_nobody_is_let_in(stack: Stack) -> None:
    _status, found = doctor(stack, CREDENTIALS_OIDC_ISSUER=None)
    assert found["issuer"].startswith("untried CREDENTIALS_OIDC_ISSUER is not set: the service lets nobody in")


def test_the_rotators_logins_work(stack: Stack) -> None:
    _status, found = doctor(stack)
    assert found["rotator"] == "ok its logins to Postgres and Vault work"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("VAULT_ROLE_ID", "nope", "Vault: The service could not log in to Vault"),
        ("VAULT_ROLE_ID", None, f"{ROTATOR}VAULT_ROLE_ID: is not set"),
        ("VAULT_SECRET_ID_FILE", "/nowhere", f"Vault: {ROTATOR}VAULT_SECRET_ID_FILE: not a readable file"),
        ("DATABASE_URL", "nonsense", f"Postgres: {ROTATOR}DATABASE_URL: not a PostgreSQL URL"),
        ("DATABASE_URL", "postgresql://u:p@127.0.0.1:1/d", "Postgres: Postgres could not be reached"),
    ],
    ids=["role-id", "no-role-id", "secret-id-file", "no-url", "no-postgres"],
)
def test_a_login_of_the_rotators_that_does_not_work_is_wrong(
    setting: str, value: str | None, said: str, stack: Stack
) -> None:
    status, found = doctor(stack, **{ROTATOR + setting: value})
    assert status == 1
    assert found["rotator"].startswith(f"wrong {said}"), found
    assert found["postgres"].startswith("ok "), "the service's own logins are others"


def test_what_is_wrong_with_both_logins_is_said_without_the_password(stack: Stack) -> None:
    url = with_password(stack.settings(), "mistyped-password")
    status, found = doctor(stack, CREDENTIALS_ROTATOR_DATABASE_URL=url, CREDENTIALS_ROTATOR_VAULT_ROLE_ID="nope")
    assert status == 1
    assert found["rotator"].startswith("wrong Postgres: The login is refused, or its role lacks")
    assert "; Vault: The service could not log in" in found["rotator"]
    assert "mistyped-password" not in str(found)


def test_a_process_without_the_rotators_logins_has_none_to_try(stack: Stack) -> None:
    _status, found = doctor(stack, CREDENTIALS_ROTATOR_DATABASE_URL=None)
    assert found["rotator"].startswith("untried CREDENTIALS_ROTATOR_DATABASE_URL is not set here")


def test_a_wrapped_secret_id_is_left_to_the_worker(stack: Stack, tmp_path: Path) -> None:
    wrap = {"X-Vault-Token": stack.root_token, "X-Vault-Wrap-TTL": "300s"}
    answer = httpx.post(f"{stack.vault_addr}/v1/sys/wrapping/wrap", json={"secret_id": "any"}, headers=wrap)
    token = answer.json()["wrap_info"]["token"]
    file = tmp_path / "secret-id"
    file.write_text(token)
    _status, found = doctor(
        stack, CREDENTIALS_ROTATOR_VAULT_SECRET_ID_FILE=str(file), CREDENTIALS_ROTATOR_VAULT_SECRET_ID_WRAPPED="true"
    )
    assert found["rotator"].startswith("untried its login to Postgres works; that to Vault was not tried")
    assert stack.vault("POST", "sys/wrapping/lookup", {"token": token}).is_success, "it was used up"
