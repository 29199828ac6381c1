"""Trimming a key's retired versions: what nobody can undo, so a person does it, with their own login to Vault.

https://developer.hashicorp.com/vault/api-docs/secret/transit#trim-key
"""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from service.errors import ConfigurationError, CredentialsError
from service.localstack.vault_admin import VaultAdmin
from service.vault.client import check_path

Json = Mapping[str, Any]


class NotTrimmable(CredentialsError):
    """The versions can't be trimmed; the message says what has to be done first."""


class ReadinessCheck(BaseModel):
    """One of the service's checks, as `/readyz` tells of it."""

    name: str
    ok: bool


class Readiness(BaseModel):
    """What `/readyz` answers, as far as it is needed here."""

    status: str
    checks: list[ReadinessCheck]


def check_moment(readiness: Json) -> None:
    """Refuses unless the service has looked, and Vault and Postgres are of the same moment. Raises NotTrimmable.

    After a restore of one of them Postgres may name other key versions than its ciphertexts are under.
    """
    if not any(check["name"] == "skew" and check["ok"] for check in readiness["checks"]):
        raise NotTrimmable(
            "the service does not say that Vault and Postgres are of the same moment (/readyz, `skew`), so what is"
            " under which version is not sure: see `vault-credentials doctor --full`, then `reconcile --skew`"
        )


def check_with_service(key: Json, below: int) -> None:
    """Refuses what the service knows to be needed, or not retired yet. Raises NotTrimmable."""
    needed = [each for each in key["versions"] if each["version"] < below and _is_needed(each)]
    if needed:
        raise NotTrimmable(f"something is still encrypted under versions below {below}: rewrap, then retire, first")
    if below > key["min_decryption_version"] or below > key["floor"]:
        raise NotTrimmable(f"versions below {below} are not retired yet: retire them first, and be sure for a while")


def vault_from_environment() -> VaultAdmin:
    """Vault at VAULT_ADDR, as whoever VAULT_TOKEN is. Raises ConfigurationError where one of them is not set."""
    address, token = os.environ.get("VAULT_ADDR"), os.environ.get("VAULT_TOKEN")
    if not address or not token:
        raise ConfigurationError("VAULT_ADDR and VAULT_TOKEN: trimming is done with your own login to Vault; set both")
    return VaultAdmin(
        address, token, namespace=os.environ.get("VAULT_NAMESPACE"), cacert=os.environ.get("VAULT_CACERT")
    )


class Trimming:
    """Trims one key's versions below a version.

    Guarantees: Vault's key is the one that the service told of, as far as its versions say. Does not: know what else
    is encrypted with the key; nor does Vault.
    """

    def __init__(self, vault: VaultAdmin, key: Json, below: int) -> None:
        """`key` is what the service tells of it. Raises VaultRefused where its name or mount is none in Vault."""
        self._vault = vault
        self._key = key
        self._below = below
        self._path = f"{key['transit_mount']}/keys/{key['name']}"
        check_path(self._path)

    def check(self) -> None:
        """Raises NotTrimmable where Vault's key is another one, or is trimmed already; and as `VaultAdmin.call`."""
        found = self._vault.data("GET", self._path)
        if any(found.get(name) != self._key[name] for name in ("latest_version", "min_decryption_version")):
            raise NotTrimmable("the Vault at VAULT_ADDR has another key of this name than the service uses")
        if int(found.get("min_available_version") or 0) >= self._below:
            raise NotTrimmable(f"versions below {self._below} have been trimmed before")

    def trim(self) -> None:
        """Does it. Raises as `VaultAdmin.call`."""
        # Vault wants both minimums at or above what is trimmed. Whoever encrypts uses the newest version anyway.
        if int(self._vault.data("GET", self._path).get("min_encryption_version") or 0) < self._below:
            self._vault.call("POST", f"{self._path}/config", {"min_encryption_version": self._below})
        self._vault.call("POST", f"{self._path}/trim", {"min_available_version": self._below})


def _is_needed(version: Json) -> bool:
    return bool(version["credentials"] or version["previous_secrets"])
