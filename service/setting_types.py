"""What the modules of settings share: how variables are named, and what each login to Vault takes."""

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices
from pydantic_settings import SettingsConfigDict

CONFIG = SettingsConfigDict(
    env_prefix="CREDENTIALS_", extra="ignore", hide_input_in_errors=True, frozen=True, populate_by_name=True
)


def env(name: str) -> Any:
    """A setting whose variable doesn't begin with CREDENTIALS_, and which may also be passed by its field's name."""
    return AliasChoices(name, name.lower())


_LOGINS: dict[str, tuple[tuple[str, ...], ...]] = {
    "approle": (("vault_role_id",), ("vault_secret_id_file", "vault_secret_id")),
    "kubernetes": (("vault_kubernetes_role",),),
    "token_file": (("vault_token_file",),),
}
"""What each login to Vault takes: one setting of each group."""


def missing_for(login: str, given: Mapping[str, Any]) -> str | None:
    """The first setting that this login to Vault takes and that isn't given, or is empty."""
    return next((ways[0] for ways in _LOGINS[login] if not any(given[name] for name in ways)), None)
