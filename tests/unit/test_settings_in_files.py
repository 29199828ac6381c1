"""CREDENTIALS_SETTINGS_DIR: any setting may be a file, so that no secret has to be in the environment."""

import traceback
from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.settings import load_settings
from tests.support import canary


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what is needed, and an environment that has nothing but its name."""
    for name in ("DATABASE_URL", "VAULT_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CREDENTIALS_SETTINGS_DIR", str(tmp_path))
    (tmp_path / "DATABASE_URL").write_text("postgresql://u:pw@127.0.0.1/db\n")
    (tmp_path / "VAULT_ADDR").write_text("https://vault.test:8200")
    return tmp_path


def refusal() -> str:
    """What loading says, with the whole traceback."""
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    return "".join(traceback.format_exception(refused.value))


def test_settings_are_read_from_files(folder: Path) -> None:
    (folder / "CREDENTIALS_VAULT_ROLE_ID").write_text("a-role\n")
    (folder / "CREDENTIALS_OIDC_ROLE_NAMES").write_text('{"traders": "user"}')
    settings = load_settings()
    assert settings.database_url.get_secret_value() == "postgresql://u:pw@127.0.0.1/db"
    assert settings.vault_role_id == "a-role"
    assert settings.oidc_role_names == {"traders": "user"}


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "https://other.test")
    assert load_settings().vault_addr == "https://other.test"


def test_files_that_are_no_settings_are_passed_by(folder: Path) -> None:
    (folder / "secret-id").write_text(canary())
    (folder / "..data").mkdir()
    assert load_settings().vault_secret_id is None


@pytest.mark.parametrize("missing", ["nowhere", "DATABASE_URL"])
def test_a_folder_that_is_none_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("CREDENTIALS_SETTINGS_DIR", str(folder / missing))
    assert "CREDENTIALS_SETTINGS_DIR: is not a folder" in refusal()


def test_a_file_that_cannot_be_read_is_named_and_not_shown(folder: Path) -> None:
    secret = canary()
    (folder / "DATABASE_URL").write_bytes(secret.encode() + b"\xff\xfe")
    said = refusal()
    assert "DATABASE_URL: its file cannot be read" in said
    assert secret not in said


def test_a_wrong_value_in_a_file_is_named_and_not_shown(folder: Path) -> None:
    secret = canary()
    (folder / "CREDENTIALS_PORT").write_text(secret)
    (folder / "CREDENTIALS_OIDC_ROLE_NAMES").write_text("{}")
    said = refusal()
    assert "CREDENTIALS_PORT: " in said
    assert secret not in said
    (folder / "CREDENTIALS_PORT").write_text("8081")
    (folder / "CREDENTIALS_OIDC_ROLE_NAMES").write_text(secret)
    said = refusal()
    assert "CREDENTIALS_OIDC_ROLE_NAMES: must be JSON" in said
    assert secret not in said
