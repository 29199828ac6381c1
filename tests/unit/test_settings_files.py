"""Files of CREDENTIALS_SETTINGS_DIR that others may read or change are named; a collector's headers are read there."""

import logging
import os
import traceback
from pathlib import Path

import pytest

from service import settings_files
from service.errors import ConfigurationError
from service.settings import Settings, load_settings
from service.settings_files import collector_headers, exposed_files, log_exposed_files
from tests.support import canary

CHANGED = "other users of this machine may change it (chmod 600)"
READ = "other users of this machine may read it (chmod 600)"
ANOTHERS = "it belongs to another user of this machine (chown)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of settings as it should be."""
    for name in ("DATABASE_URL", "VAULT_ADDR", *settings_files.OTLP_HEADERS):
        monkeypatch.delenv(name, raising=False)
    found = tmp_path / "settings"
    found.mkdir(mode=0o700)
    monkeypatch.setenv("CREDENTIALS_SETTINGS_DIR", str(found))
    write(found / "DATABASE_URL", f"postgresql://u:{canary()}@127.0.0.1/db")
    write(found / "VAULT_ADDR", "https://vault.test:8200")
    return found


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def found() -> dict[str, str]:
    return {each.variable: each.problem for each in exposed_files(load_settings())}


def test_a_folder_that_is_as_it_should_be_has_nothing_to_be_said_of() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("mode", "of_a_secret", "of_another"),
    [
        (0o400, None, None),
        (0o440, None, None),  # Kubernetes' fsGroup
        (0o644, READ, None),  # Kubernetes' default
        (0o604, READ, None),
        (0o660, CHANGED, CHANGED),
        (0o602, CHANGED, CHANGED),
        (0o666, CHANGED, CHANGED),
    ],
)
def test_what_others_may_do_with_a_setting_is_said(
    folder: Path, mode: int, of_a_secret: str | None, of_another: str | None
) -> None:
    for name in ("DATABASE_URL", "VAULT_ADDR"):
        (folder / name).chmod(mode)
    assert (found().get("DATABASE_URL"), found().get("VAULT_ADDR")) == (of_a_secret, of_another)


def test_every_secret_is_looked_at_and_nothing_that_is_no_setting(folder: Path) -> None:
    secrets = ["DATABASE_URL", "CREDENTIALS_VAULT_SECRET_ID", *settings_files.OTLP_HEADERS]
    secrets += ["CREDENTIALS_ROTATOR_DATABASE_URL", "CREDENTIALS_ROTATOR_VAULT_SECRET_ID"]
    for name in (*secrets, "CREDENTIALS_VAULT_ROLE_ID", "README"):
        write(folder / name, "authorization=x", 0o644)
    write(folder / "credentials_oidc_audience", "us", 0o666)  # names are read in whatever case
    assert found() == dict.fromkeys(secrets, READ) | {"CREDENTIALS_OIDC_AUDIENCE": CHANGED}
    assert {name for name, field in Settings.model_fields.items() if settings_files._is_secret(field)} == {
        "database_url",
        "vault_secret_id",
        "rotator_database_url",
        "rotator_vault_secret_id",
    }


def test_a_file_that_a_setting_names_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CREDENTIALS_VAULT_SECRET_ID_FILE", "CREDENTIALS_VAULT_TOKEN_FILE", "VAULT_CLIENT_KEY"):
        monkeypatch.setenv(variable, str(write(tmp_path / variable, canary(), 0o644)))
    monkeypatch.setenv("CREDENTIALS_ROTATOR_VAULT_SECRET_ID_FILE", str(tmp_path / "is not there"))
    monkeypatch.delenv("CREDENTIALS_SETTINGS_DIR")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@127.0.0.1/db")
    monkeypatch.setenv("VAULT_ADDR", "https://vault.test:8200")
    assert found() == dict.fromkeys(
        ("CREDENTIALS_VAULT_SECRET_ID_FILE", "CREDENTIALS_VAULT_TOKEN_FILE", "VAULT_CLIENT_KEY"), READ
    )


def test_of_a_kubernetes_volume_the_files_count_that_its_links_lead_to(folder: Path) -> None:
    (folder / "..2026_11_29").mkdir()
    (folder / "..data").symlink_to("..2026_11_29")
    (folder / "DATABASE_URL").rename(folder / "..2026_11_29" / "DATABASE_URL")
    (folder / "DATABASE_URL").symlink_to("..data/DATABASE_URL")
    assert found() == {}
    (folder / "..2026_11_29" / "DATABASE_URL").chmod(0o644)
    assert found() == {"DATABASE_URL": READ}


def test_a_folder_that_others_may_write_to_is_named_unless_it_is_mounted_read_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.chmod(0o1777)  # as Kubernetes mounts it, read-only
    problem = "other users of this machine may put files into it (chown, chmod 700)"
    assert found() == {"CREDENTIALS_SETTINGS_DIR": problem}
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((1,) * 8 + (os.ST_RDONLY, 255)))
    assert found() == {}


def test_what_another_user_owns_is_named_for_root_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.geteuid()
    # As another user sees it: files of theirs are somebody else's then, root's are not.
    monkeypatch.setattr(os, "geteuid", lambda: mine + 12345)
    others = {} if mine == 0 else {"DATABASE_URL": ANOTHERS, "VAULT_ADDR": ANOTHERS}
    assert {name: what for name, what in found().items() if name != "CREDENTIALS_SETTINGS_DIR"} == others
    monkeypatch.undo()
    if mine == 0:
        monkeypatch.setenv("CREDENTIALS_SETTINGS_DIR", str(folder))
        os.chown(folder / "DATABASE_URL", 12345, -1)
        assert found() == {"DATABASE_URL": ANOTHERS}


def test_it_is_a_warning_in_the_log_without_any_value(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "DATABASE_URL").chmod(0o666)
    with caplog.at_level(logging.INFO):
        log_exposed_files(load_settings())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (vars(record)["file"], vars(record)["problem"]) == ("DATABASE_URL", CHANGED)
    assert (folder / "DATABASE_URL").read_text() not in str(vars(record))


@pytest.mark.parametrize("name", settings_files.OTLP_HEADERS)
def test_a_collectors_headers_are_read_from_a_file(folder: Path, name: str) -> None:
    assert collector_headers() is None
    token = canary()
    write(folder / name, f"authorization=Bearer%20{token},X-Tenant=a=b\n")
    assert collector_headers() == {"authorization": f"Bearer {token}", "x-tenant": "a=b"}


@pytest.mark.parametrize("name", settings_files.OTLP_HEADERS)
def test_the_environments_headers_win(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "OTEL_EXPORTER_OTLP_TRACES_HEADERS", f"authorization={canary()}")
    monkeypatch.setenv(name, "authorization=other")
    assert collector_headers() is None


@pytest.mark.parametrize(
    "form", ["{}", "authorization={}%0d%0aother: x", "={}", "a={},", "a={}\nb=c", "a={}\udce9", "é={}"]
)
def test_headers_that_are_none_are_named_and_not_shown(folder: Path, form: str) -> None:
    token = canary()
    (folder / settings_files.OTLP_HEADERS[0]).write_bytes(form.format(token).encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError) as refused:
        collector_headers()
    said = "".join(traceback.format_exception(refused.value))
    assert "settings: OTEL_EXPORTER_OTLP_TRACES_HEADERS: " in said
    assert token not in said
