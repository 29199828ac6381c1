"""The settings about using credentials: hand-off, proxy, the paper/live guard, suspects, rate limits."""

from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from service.setting_types import CONFIG

_Roles = Literal["user", "orchestrator", "library"]


class UseSettings(BaseSettings):
    """What callers may do with credentials beyond keeping them."""

    model_config = CONFIG

    # Hand-off
    handoff_seconds: int = Field(default=30, ge=1, le=300, description="How long a hand-off lasts that names no time.")
    handoff_vault_addr: str | None = Field(
        default=None, description="Where orchestrators reach Vault to unwrap; by default VAULT_ADDR."
    )

    # Proxy
    proxy_allow: dict[_Roles, tuple[str, ...]] = Field(
        default_factory=dict,
        description='What each role may call, as `METHOD /path`, `*` for any of either: {"user": ["GET /v2/*"]}. '
        "A role that is not named may call all that the provider's module knows.",
    )
    proxy_connect_seconds: float = Field(default=5.0, gt=0, le=60, description="For a connection to the provider.")
    proxy_idle_seconds: float = Field(
        default=30.0, gt=0, le=600, description="How long a proxied call may stand still, in either direction."
    )
    proxy_call_seconds: float = Field(default=300.0, gt=0, le=3600, description="How long a proxied call may last.")
    proxy_calls_at_once: int = Field(default=256, ge=1, le=1000, description="Proxied calls under way; more get 503.")
    proxy_calls_at_once_user: int = Field(
        default=64, ge=1, le=1000, description="The same, for each user: one who is slow doesn't stop all others."
    )
    proxy_calls_at_once_caller: int = Field(
        default=192, ge=1, le=1000, description="The same, for each caller, an orchestrator say, whoever it acts for."
    )
    recheck_seconds: float = Field(
        default=0.5, gt=0, le=10, description="How often calls under way are looked at for a suspension."
    )
    recheck_grace_seconds: float = Field(
        default=5.0, ge=0, le=60, description="Calls under way are cut when that has not been possible for so long."
    )

    # Paper or live
    refuse_live: bool = Field(
        default=False, description="Only paper accounts' keys are saved and used; not yet known counts as live."
    )
    refuse_live_roles: frozenset[_Roles] = Field(
        default=frozenset(), description="The same, for these roles alone: user, orchestrator, library."
    )

    # Credentials that their provider refuses
    disable_suspects: bool = Field(
        default=False, description="Disable a credential that stays suspect, unless many turned suspect with it."
    )
    suspect_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="How long it has to be suspect; what turns suspect as shortly before or after counts as at once.",
    )
    suspects_at_once: int = Field(
        default=3, ge=1, description="As many of one type at once, or more, are the provider's fault: none is disabled."
    )

    # How often, in each process; 0: no limit
    opens_per_minute: int = Field(default=0, ge=0, description="Opens by the library, for each user.")
    opens_per_minute_caller: int = Field(default=0, ge=0, description="The same, for each embedding program.")
    handoffs_per_minute: int = Field(default=600, ge=0, description="Hand-offs for each user.")
    handoffs_per_minute_caller: int = Field(default=6000, ge=0, description="Hand-offs by each caller.")
    validations_per_minute: int = Field(default=300, ge=0, description="Validations for each user.")
    validations_per_minute_caller: int = Field(default=3000, ge=0, description="Validations by each caller.")
    proxy_calls_per_minute: int = Field(default=1200, ge=0, description="Proxied calls for each user.")
    proxy_calls_per_minute_caller: int = Field(default=12_000, ge=0, description="Proxied calls by each caller.")

    @field_validator("proxy_allow")
    @classmethod
    def _are_rules(cls, value: dict[_Roles, tuple[str, ...]]) -> dict[_Roles, tuple[str, ...]]:
        for rule in (rule for rules in value.values() for rule in rules):
            method, _, path = rule.partition(" ")
            if not (method == "*" or (method.isascii() and method.isupper())) or not path.startswith("/"):
                raise ValueError("each rule must be `METHOD /path`")
        return value
