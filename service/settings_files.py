"""The files of CREDENTIALS_SETTINGS_DIR and those with secrets that settings name: who else may read or change them.

Beside the settings it may have OpenTelemetry's variables with a collector's token, which are no settings of ours.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from service.errors import ConfigurationError
from service.file_exposure import ANYBODY, ITS_GROUP, exposure
from service.settings import SETTINGS_DIR, Settings

OTLP_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
"""What is sent to a collector with everything, its token among it. The first is the one that counts."""

_NAME_SECRETS = (
    "vault_secret_id_file",
    "rotator_vault_secret_id_file",
    "vault_token_file",
    "rotator_vault_token_file",
    "vault_client_key",
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exposed:
    """A file that is open to others: the variable that it is, or that names it, and what they may do."""

    variable: str
    problem: str


def exposed_files(settings: Settings) -> Iterator[Exposed]:
    """Every such file. A group may read: Kubernetes gives a pod its secrets by `fsGroup`. What can't be looked at is
    passed over: whoever needs it fails by itself.
    """
    folder = os.environ.get(SETTINGS_DIR)
    if folder:
        yield from _in_folder(Path(folder))
    for name in _NAME_SECRETS:
        path = getattr(settings, name)
        if path is not None:
            yield from _looked_at(path, _variable(name, Settings.model_fields[name]), may_read=ITS_GROUP)


def log_exposed_files(settings: Settings) -> None:
    """A warning for each, at start. No reason not to start: a Kubernetes volume's files have mode 0644 by default, and
    nobody else is in its container.
    """
    for each in exposed_files(settings):
        _log.warning("a file of the settings is open to others", extra={"file": each.variable, "problem": each.problem})


def collector_headers() -> dict[str, str] | None:
    """The headers that a file in CREDENTIALS_SETTINGS_DIR has, in OpenTelemetry's notation: `name=value,name=value`,
    percent-encoded where need be. None where there is none, or where the environment has the variable.

    Raises:
        ConfigurationError: it can't be read, or is something else; names it, and nothing that is in it.
    """
    folder = os.environ.get(SETTINGS_DIR)
    if not folder or any(os.environ.get(name) for name in OTLP_HEADERS):
        return None
    for name in OTLP_HEADERS:
        path = Path(folder) / name
        if not path.exists():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError(f"settings: {name}: its file cannot be read") from None
        headers = {}  # str: what OpenTelemetry's exporter takes, and keeps for as long as it is there
        for each in text.strip().split(","):
            key, _, value = each.partition("=")
            key, value = unquote(key).strip().lower(), unquote(value).strip()
            if not key or not value or not (key + value).isprintable() or not (key + value).isascii():
                # OpenTelemetry's own parser would log it, token and all.
                raise ConfigurationError(f"settings: {name}: must be name=value, separated by commas")
            headers[key] = value
        return headers
    return None


def _in_folder(folder: Path) -> Iterator[Exposed]:
    secret = {_variable(name, field): _is_secret(field) for name, field in Settings.model_fields.items()}
    secret |= dict.fromkeys(OTLP_HEADERS, True)
    try:
        # Where it is mounted read-only, which a Kubernetes volume is, its mode says nothing.
        is_fixed = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
        if not is_fixed and exposure(folder.stat(), may_read=ANYBODY) is not None:
            yield Exposed(SETTINGS_DIR, "other users of this machine may put files into it (chown, chmod 700)")
        names = sorted(each.name for each in folder.iterdir())
    except OSError:
        return
    for name in names:
        variable = name.upper()  # as they are read
        if variable in secret:
            may_read = ITS_GROUP if secret[variable] else ANYBODY
            yield from _looked_at(folder / name, variable, may_read=may_read)


def _looked_at(path: Path, variable: str, *, may_read: int) -> Iterator[Exposed]:
    try:
        problem = exposure(path.stat(), may_read=may_read)
    except OSError:
        return
    if problem is not None:
        yield Exposed(variable, problem)


def _variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"CREDENTIALS_{name.upper()}"


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))
