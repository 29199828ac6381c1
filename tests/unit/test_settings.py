"""Settings: read when asked for, wrong ones named and never shown, secrets masked, no forgeable signatures."""

import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from service.errors import ConfigurationError
from service.settings import Settings, load_provider_settings, load_settings
from tests.support import canary

NEEDED = {"DATABASE_URL": "postgresql://u:pw@127.0.0.1/db", "VAULT_ADDR": "https://vault.test:8200"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with what is needed and nothing more."""
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refusal(**given: Any) -> str:
    """The message that loading ends with; checks that the whole traceback adds nothing to it."""
    with pytest.raises(ConfigurationError) as refused:
        load_settings(**given)
    assert refused.value.__cause__ is None
    shown = "".join(traceback.format_exception(refused.value))
    assert "ValidationError" not in shown
    return shown


def test_what_is_needed_is_enough() -> None:
    settings = load_settings()
    assert settings.vault_addr == "https://vault.test:8200"
    assert settings.database_url.get_secret_value() == NEEDED["DATABASE_URL"]


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_missing_setting_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(name)
    assert f"{name}: is not set" in refusal()


@pytest.mark.parametrize("name", ["DATABASE_URL", "CREDENTIALS_ROTATOR_DATABASE_URL"])
@pytest.mark.parametrize("empty", ["", " "])
def test_a_database_url_that_is_empty_is_none(environment: pytest.MonkeyPatch, name: str, empty: str) -> None:
    """asyncpg would go to whatever Postgres it finds on this machine."""
    environment.setenv(name, empty)
    assert f"{name}: is not set" in refusal()


def test_every_wrong_setting_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("DATABASE_URL")
    environment.setenv("CREDENTIALS_PORT", "no")
    message = refusal()
    assert "DATABASE_URL: " in message
    assert "CREDENTIALS_PORT: " in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VAULT_ADDR", "{}"),
        ("VAULT_ADDR", "ftp://{}"),
        ("ALPACA_BASE_URL", "{}"),
        ("POLYGON_BASE_URL", "file:///{}"),
        ("CREDENTIALS_PORT", "{}"),
        ("CREDENTIALS_VAULT_LOGIN", "{}"),
        ("CREDENTIALS_VAULT_SECRET_ID_WRAPPED", "{}"),
        ("CREDENTIALS_DATABASE_TIMEOUT", "{}"),
        ("CREDENTIALS_OIDC_ISSUER", "{}"),
        ("CREDENTIALS_LOG_LEVEL", "{}"),
        ("CREDENTIALS_ACTOR", "user:{}"),
        ("VAULT_ADDR", "http://{}.test"),
        ("CREDENTIALS_OIDC_ALGORITHMS", "{}"),
        ("CREDENTIALS_OIDC_ALGORITHMS", '["HS256", "{}"]'),
        ("CREDENTIALS_OIDC_ROLE_NAMES", "{}"),
        ("CREDENTIALS_OIDC_ROLE_NAMES", '{{"{}": 3}}'),
        ("CREDENTIALS_REFUSE_LIVE", "{}"),
        ("CREDENTIALS_REFUSE_LIVE_ROLES", "{}"),
        ("CREDENTIALS_REFUSE_LIVE_ROLES", '["user", "{}"]'),
        ("CREDENTIALS_DISABLE_SUSPECTS", "{}"),
        ("CREDENTIALS_SUSPECT_SECONDS", "{}"),
        ("CREDENTIALS_SUSPECTS_AT_ONCE", "{}"),
        ("CREDENTIALS_RECHECK_SECONDS", "{}"),
        ("CREDENTIALS_RECHECK_GRACE_SECONDS", "{}"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    secret = canary()
    environment.setenv(name, value.format(secret))
    message = refusal()
    assert f"{name}: " in message
    assert secret not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CREDENTIALS_PORT", "0"),
        ("CREDENTIALS_PORT", "65536"),
        ("CREDENTIALS_VAULT_TIMEOUT", "0"),
        ("CREDENTIALS_VAULT_RETRIES", "-1"),
        ("CREDENTIALS_DATABASE_POOL_SIZE", "0"),
        ("CREDENTIALS_INTENT_AGE_SECONDS", "1"),
        ("CREDENTIALS_IDEMPOTENCY_HOURS", "0"),
        ("CREDENTIALS_MAX_BODY_BYTES", "1"),
        ("CREDENTIALS_OIDC_LEEWAY", "3600"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    assert f"{name}: " in refusal()


@pytest.mark.parametrize(
    "algorithms",
    [["HS256"], ["RS256", "HS512"], ["hs256"], ["none"], ["NONE"], ["RS256", "None"], []],
    ids=lambda names: ",".join(names) or "empty",
)
def test_no_algorithm_is_accepted_that_makes_a_public_key_a_secret_or_needs_no_key(
    environment: pytest.MonkeyPatch, algorithms: list[str]
) -> None:
    environment.setenv("CREDENTIALS_OIDC_ALGORITHMS", json.dumps(algorithms))
    assert "CREDENTIALS_OIDC_ALGORITHMS: " in refusal()


ADDRESSES = ("VAULT_ADDR", "CREDENTIALS_OIDC_ISSUER", "ALPACA_BASE_URL", "POLYGON_BASE_URL")


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize(
    "host", ["vault.test", "10.0.0.1:8200", "127.0.0.1.evil.test", "127.0.0.1@evil.test", "[2001:db8::1]", "128.0.0.1"]
)
def test_http_to_another_machine_is_refused_unless_it_is_allowed(
    environment: pytest.MonkeyPatch, name: str, host: str
) -> None:
    environment.setenv(name, f"http://{host}")
    message = refusal()
    assert f"settings: {name}: must begin with https://" in message
    assert "CREDENTIALS_ALLOW_PLAIN_HTTP=true" in message
    environment.setenv("CREDENTIALS_ALLOW_PLAIN_HTTP", "true")
    load_settings()


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize("host", ["localhost:8200", "127.0.0.1", "127.1.2.3:80", "[::1]:8200"])
def test_http_to_this_machine_is_no_secret_on_a_wire(environment: pytest.MonkeyPatch, name: str, host: str) -> None:
    environment.setenv(name, f"http://{host}")
    load_settings()


@pytest.mark.parametrize("address", ["https://", "http://", "https:///path", "http://[::1"])
def test_an_address_has_a_host(environment: pytest.MonkeyPatch, address: str) -> None:
    environment.setenv("VAULT_ADDR", address)
    assert "settings: VAULT_ADDR: must name a host\n" in refusal()


def test_a_refusal_has_no_words_of_the_validators(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VAULT_ADDR", "ftp://x")
    assert "Value error" not in refusal()


@pytest.mark.parametrize(
    ("actor", "problem"),
    [
        ("user:alice", "must not contain a colon"),
        ("", "must not be empty"),
        (" bot", "must not begin or end with white space"),
        ("b\u200bot", "must not contain control characters, or others that do not show"),
    ],
)
def test_the_actor_of_a_program_is_a_name(environment: pytest.MonkeyPatch, actor: str, problem: str) -> None:
    environment.setenv("CREDENTIALS_ACTOR", actor)
    assert f"settings: CREDENTIALS_ACTOR: {problem}\n" in refusal()


@pytest.mark.parametrize("level", ["debug", "Info", "WARNING", "CRITICAL"])
def test_a_log_level_is_taken_in_any_case(environment: pytest.MonkeyPatch, level: str) -> None:
    environment.setenv("CREDENTIALS_LOG_LEVEL", level)
    assert load_settings().log_level == level.upper()


@pytest.mark.parametrize("level", ["", "LOUD", "NOTSET", "10"])
def test_a_log_level_that_there_is_not_is_refused(environment: pytest.MonkeyPatch, level: str) -> None:
    environment.setenv("CREDENTIALS_LOG_LEVEL", level)
    assert "settings: CREDENTIALS_LOG_LEVEL: must be " in refusal()


def test_asymmetric_algorithms_are_accepted(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CREDENTIALS_OIDC_ALGORITHMS", '["PS256", "ES384"]')
    assert load_settings().oidc_algorithms == ("PS256", "ES384")


def test_no_way_of_showing_the_settings_shows_a_secret(environment: pytest.MonkeyPatch) -> None:
    password, secret_id = canary(), canary()
    environment.setenv("DATABASE_URL", f"postgresql://u:{password}@127.0.0.1/db")
    environment.setenv("CREDENTIALS_VAULT_SECRET_ID", secret_id)
    settings = load_settings()
    dumped = settings.model_dump()
    for shown in (repr(settings), str(settings), f"{settings}", repr(dumped), str(dumped), settings.model_dump_json()):
        assert password not in shown
        assert secret_id not in shown
    assert settings.vault_secret_id is not None
    assert settings.vault_secret_id.get_secret_value() == secret_id


def test_settings_do_not_change_once_they_are_read() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "port", 1)  # noqa: B010 - mypy knows that it can't be set


def test_what_is_passed_wins_over_the_environment() -> None:
    settings = load_settings(vault_addr="http://127.0.0.1:1", port=9)
    assert (settings.vault_addr, settings.port) == ("http://127.0.0.1:1", 9)


def test_a_variable_that_is_nobodys_is_passed_by(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CREDENTIALS_OWNER_DATABASE_URL", "postgresql://owner@127.0.0.1/db")
    environment.setenv("VAULT_TOKEN", canary())
    load_settings()


def test_validating_given_keys_needs_neither_vault_nor_postgres(environment: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        environment.delenv(name)
    assert load_provider_settings().alpaca_base_url == "https://paper-api.alpaca.markets"


def test_the_transit_key_of_idempotency_is_no_credential_types_key() -> None:
    settings = load_settings()
    assert settings.transit_key("alpaca") == "credentials-alpaca"
    assert settings.idempotency_key_name not in {settings.transit_key(kind) for kind in ("alpaca", "polygon")}


def test_no_setting_is_read_at_import() -> None:
    program = "import service.composition, service.modules.credential_service, service.settings; print('ok')"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "", "CREDENTIALS_PORT": "not a number"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr


def test_every_setting_has_the_name_that_the_module_promises() -> None:
    """`CREDENTIALS_…`, or one of the few names that other programs know too."""
    shared = {
        str(field.validation_alias.choices[0])  # type: ignore[union-attr]  # all our aliases are AliasChoices
        for field in Settings.model_fields.values()
        if field.validation_alias is not None
    }
    assert {name.partition("_")[0] for name in shared} == {"DATABASE", "VAULT", "ALPACA", "POLYGON"}
    assert Settings.model_config["env_prefix"] == "CREDENTIALS_"


# --- the controls -----------------------------------------------------------------------------------------------------


def test_by_default_any_account_may_be_used_and_nothing_is_disabled_by_itself() -> None:
    settings = load_settings()
    assert (settings.refuse_live, settings.refuse_live_roles, settings.disable_suspects) == (False, frozenset(), False)


def test_the_roles_that_live_is_refused_to_are_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CREDENTIALS_REFUSE_LIVE_ROLES", '["user", "library"]')
    assert load_settings().refuse_live_roles == {"user", "library"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECHECK_SECONDS", "0"),  # never
        ("RECHECK_SECONDS", "11"),  # a suspension that takes so long to cut is none
        ("RECHECK_SECONDS", "nan"),
        ("RECHECK_GRACE_SECONDS", "-1"),
        ("RECHECK_GRACE_SECONDS", "61"),
        ("SUSPECT_SECONDS", "0"),
        ("SUSPECTS_AT_ONCE", "0"),
        ("REFUSE_LIVE_ROLES", '["operator"]'),  # who has no credentials
        ("REFUSE_LIVE_ROLES", '["users"]'),  # a role that there isn't would refuse nobody anything
    ],
)
def test_a_control_that_would_control_nothing_is_no_setting(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(f"CREDENTIALS_{name}", value)
    assert f"CREDENTIALS_{name}: " in refusal()
