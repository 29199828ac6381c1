"""What the modules of settings share: how variables are named."""

from typing import Any

from pydantic import AliasChoices
from pydantic_settings import SettingsConfigDict

CONFIG = SettingsConfigDict(
    env_prefix="CREDENTIALS_", extra="ignore", hide_input_in_errors=True, frozen=True, populate_by_name=True
)


def env(name: str) -> Any:
    """A setting whose variable doesn't begin with CREDENTIALS_, and which may also be passed by its field's name."""
    return AliasChoices(name, name.lower())
