"""Every setting, read from the environment, checked once, at start. Nothing is read at import.

Names: `DATABASE_URL`, the usual `VAULT_*`, `ALPACA_BASE_URL`, `POLYGON_BASE_URL`; the rest begins with
`CREDENTIALS_`. Secrets are `SecretStr`, so printing the settings prints none.

`CREDENTIALS_SETTINGS_DIR` names a folder in which any of them may be a file of its variable's name: what is in the
environment is shown by `docker inspect` and inherited by programs, what is in a file is not. The environment wins.
"""

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsError

from service.addresses import http_url
from service.errors import ConfigurationError
from service.names import name_problem
from service.setting_types import CONFIG, env, missing_for
from service.use_settings import UseSettings

SETTINGS_DIR = "CREDENTIALS_SETTINGS_DIR"


class VaultLogin(StrEnum):
    """How the service logs in to Vault."""

    APPROLE = "approle"
    KUBERNETES = "kubernetes"
    TOKEN_FILE = "token_file"  # noqa: S105 - the name of a login method


class ZeroingPolicy(StrEnum):
    """What to do where freed memory could be wiped and isn't."""

    REQUIRE = "require"
    WARN = "warn"


class ProcessSettings(BaseSettings):
    """What is decided about the process itself, before anything else is."""

    model_config = CONFIG

    zeroing: ZeroingPolicy = Field(
        default=ZeroingPolicy.REQUIRE,
        description="`require`: the service does not start where freed memory could be wiped and is not; or `warn`.",
    )
    zeroing_shim: Path | None = Field(
        default=None, description="A zero_on_free.c that was compiled elsewhere. By default it is compiled here, once."
    )
    dumpable: bool = Field(
        default=False, description="For tests alone: processes of the same user may read the service's memory."
    )
    collect_seconds: float = Field(
        default=1.0, gt=0, le=60, description="How long garbage that refers to itself may hold a secret, at most."
    )


class ProviderSettings(BaseSettings):
    """What a process needs to ask the providers, which is all that `validate_alpaca_credentials` needs."""

    model_config = CONFIG

    # First: the addresses' checks look at it.
    allow_plain_http: bool = Field(
        default=False, description="Vault, issuer and providers may be asked over http, which is not encrypted."
    )
    alpaca_base_url: str = Field(default="https://paper-api.alpaca.markets", validation_alias=env("ALPACA_BASE_URL"))
    alpaca_data_url: str | None = Field(
        default=None,
        validation_alias=env("ALPACA_DATA_URL"),
        description="Market data. By default https://data.alpaca.markets, or ALPACA_BASE_URL if that isn't Alpaca's.",
    )
    polygon_base_url: str = Field(default="https://api.polygon.io", validation_alias=env("POLYGON_BASE_URL"))
    extra_providers: tuple[str, ...] = Field(
        default=(), description="Further providers' classes, as `module:Class`: what they name becomes part of this."
    )
    provider_timeout: float = Field(default=10.0, gt=0, description="Seconds for one request to a provider.")

    @field_validator("alpaca_base_url", "alpaca_data_url", "polygon_base_url")
    @classmethod
    def _is_provider_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else http_url(value, allow_plain=info.data.get("allow_plain_http", False))


class Settings(UseSettings, ProviderSettings, ProcessSettings):
    """What a process needs to serve, or to open credentials as a library."""

    # Postgres, as the role of the runtime
    database_url: SecretStr = Field(validation_alias=env("DATABASE_URL"))
    database_pool_size: int = Field(default=10, ge=1, le=200)
    database_timeout: float = Field(default=5.0, gt=0, description="Seconds for one statement, or for a connection.")

    # Vault, where
    vault_addr: str = Field(validation_alias=env("VAULT_ADDR"))
    vault_namespace: str | None = Field(default=None, validation_alias=env("VAULT_NAMESPACE"))
    vault_cacert: Path | None = Field(default=None, validation_alias=env("VAULT_CACERT"))
    vault_capath: Path | None = Field(default=None, validation_alias=env("VAULT_CAPATH"))
    vault_client_cert: Path | None = Field(default=None, validation_alias=env("VAULT_CLIENT_CERT"))
    vault_client_key: Path | None = Field(default=None, validation_alias=env("VAULT_CLIENT_KEY"))
    vault_tls_server_name: str | None = Field(default=None, validation_alias=env("VAULT_TLS_SERVER_NAME"))
    vault_timeout: float = Field(default=5.0, gt=0, description="Seconds for one request to Vault.")
    vault_retries: int = Field(default=2, ge=0, le=10, description="Further tries of what is safe to repeat.")

    # Vault, as whom
    vault_login: VaultLogin = VaultLogin.APPROLE
    vault_auth_mount: str | None = Field(default=None, description="By default the login method's own name.")
    vault_role_id: str | None = None
    vault_secret_id: SecretStr | None = None
    vault_secret_id_file: Path | None = None
    vault_secret_id_wrapped: bool = Field(default=False, description="The secret id is a response-wrapping token.")
    vault_secret_id_wrapped_path: str | None = Field(
        default=None, description="The creation path a wrapped secret id must have; by default the AppRole role's own."
    )
    vault_kubernetes_role: str | None = None
    vault_kubernetes_jwt_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    vault_token_file: Path | None = Field(default=None, description="A token that Vault Agent keeps fresh.")

    # Vault, what
    transit_mount: str = "transit"
    transit_key_prefix: str = "credentials-"
    kv_mount: str = "credentials"

    # How much at once, in one process
    batch_items: int = Field(
        default=128, ge=1, le=1000, description="Opens or stores in one request to Vault, or reads in one statement."
    )
    batches_under_way: int = Field(
        default=2, ge=1, le=64, description="Batches of opens, of reads, and of each key, at once."
    )
    max_waiting: int = Field(default=4096, ge=1, description="Calls that wait for each of these; more are refused.")
    kv_reads_at_once: int = Field(default=32, ge=1, le=128, description="Ciphertexts read from KV at the same time.")
    kv_writes_at_once: int = Field(default=16, ge=1, le=128, description="Stores and updates writing to KV at once.")
    ciphertext_cache_bytes: int = Field(default=32_000_000, ge=0, description="Ciphertexts kept in memory; 0: none.")
    ciphertext_cache_seconds: float = Field(
        default=300.0, ge=0, description="After this a ciphertext is read again: one destroyed in KV stops opening."
    )

    # Rotation: the login of whoever rotates, rewraps and retires; a worker's own, or the service's as well
    rotator_database_url: SecretStr | None = Field(
        default=None, description="Postgres as the rotator's role. Set with a login below, this process does the jobs."
    )
    rotator_vault_login: VaultLogin = VaultLogin.APPROLE
    rotator_vault_auth_mount: str | None = None
    rotator_vault_role_id: str | None = None
    rotator_vault_secret_id: SecretStr | None = None
    rotator_vault_secret_id_file: Path | None = None
    rotator_vault_secret_id_wrapped: bool = False
    rotator_vault_secret_id_wrapped_path: str | None = None
    rotator_vault_kubernetes_role: str | None = None
    rotator_vault_kubernetes_jwt_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    rotator_vault_token_file: Path | None = None
    rewrap_batch: int = Field(
        default=64, ge=1, le=500, description="Credentials rewrapped in one request; their rows are locked meanwhile."
    )
    rewrap_writes_at_once: int = Field(default=32, ge=1, le=128, description="KV writes of a rewrap at the same time.")
    rewrap_per_second: float = Field(
        default=0, ge=0, description="Credentials rewrapped a second, at most, by one process; 0: as many as can be."
    )
    job_poll_seconds: float = Field(default=1.0, gt=0, le=60, description="How often a worker looks for jobs.")
    job_wait_seconds: float = Field(
        default=5.0, ge=0, le=60, description="How long a request for a rotation or retirement waits for its end."
    )
    seal_seconds: float = Field(default=5.0, gt=0, le=3600, description="How often new events are sealed.")
    vault_ui_url: str | None = Field(default=None, description="Where people reach Vault's UI; default: VAULT_ADDR.")

    # Who may call: any OIDC issuer
    oidc_issuer: str | None = None
    oidc_audience: str = "vault-credentials"
    oidc_algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    oidc_user_claim: str = "sub"
    oidc_roles_claim: str = "roles"
    oidc_role_names: dict[str, str] = Field(
        default_factory=dict, description="What the issuer calls our roles: its name to ours. Empty: the same names."
    )
    oidc_limits_claim: str = Field(
        default="credentials_limits",
        description='A claim that limits what its token allows: {"users": [...], "actions": [...]}, either optional.',
    )
    oidc_leeway: float = Field(default=10.0, ge=0, le=300, description="Seconds of clock skew accepted.")
    oidc_cache_seconds: float = Field(default=300.0, gt=0, description="How long the issuer's keys count as fresh.")
    oidc_tokens_remembered: int = Field(
        default=4096, ge=0, description="Tokens whose signature is not checked anew with each request; 0: none."
    )
    oidc_cacert: Path | None = None

    # The service
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    drain_seconds: float = Field(
        default=3.0,
        ge=0,
        le=300,
        description="At SIGTERM: how long requests are still taken while /readyz says 503 already.",
    )
    grace_seconds: int = Field(
        default=10, ge=1, le=3600, description="After that: how long requests under way, streams too, may take to end."
    )
    max_body_bytes: int = Field(default=16_384, ge=1024)
    require_if_match: bool = Field(default=False, description="Refuse changes that don't name the version they change.")
    idempotency_hours: int = Field(default=24, ge=1)
    previous_secret_hours: int = Field(default=24, ge=0, description="How long an update can be rolled back.")
    intent_age_seconds: int = Field(default=900, ge=60, description="How old a write intent is when it is cleaned up.")
    reconcile_interval: float = Field(default=60.0, gt=0, description="Seconds between background reconciliations.")
    metrics_seconds: float = Field(
        default=60.0,
        ge=0,
        description="Seconds between looks at what metrics tell of keys, tables, checks; 0: none.",
    )
    actor: str = Field(
        default="library", description="Who an embedding program is in the events: `library`, or `library:` and this."
    )
    log_level: str = "INFO"

    @field_validator("database_url", "rotator_database_url")
    @classmethod
    def _is_given(cls, value: SecretStr | None) -> SecretStr | None:
        # A template whose variable is empty; asyncpg would look for a Postgres of its own accord.
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("is not set")
        return value

    @field_validator("vault_addr", "vault_ui_url", "handoff_vault_addr")
    @classmethod
    def _is_http_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else http_url(value, allow_plain=info.data.get("allow_plain_http", False))

    @field_validator("oidc_issuer")
    @classmethod
    def _is_an_issuer(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Kept to the letter: tokens' `iss` is compared to it, and some issuers' names end in a slash.
        if value is not None:
            http_url(value, allow_plain=info.data.get("allow_plain_http", False))
        return value

    @field_validator("oidc_algorithms")
    @classmethod
    def _is_asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # An HMAC key would be the issuer's public key, which everybody has; `none` is no signature (RFC 8725, 2.1).
        if not value or any(name.upper() == "NONE" or name.upper().startswith("HS") for name in value):
            raise ValueError("only asymmetric algorithms are accepted")
        return value

    @field_validator("actor")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        # A colon would let it read as somebody of another role: `user:alice`.
        problem = "must not contain a colon" if ":" in value else name_problem(value)
        if problem is not None:
            raise ValueError(problem)
        return value

    @field_validator("log_level")
    @classmethod
    def _is_a_level(cls, value: str) -> str:
        if logging.getLevelNamesMapping().get(value.upper(), logging.NOTSET) == logging.NOTSET:
            raise ValueError("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return value.upper()

    def transit_key(self, credential_type: str) -> str:
        """The transit key that credentials of this type are encrypted with."""
        return f"{self.transit_key_prefix}{credential_type}"

    @property
    def events_key_name(self) -> str:
        """The transit key that signs the seals over the events. It is outside `transit_key_prefix`'s types."""
        return f"{self.transit_key_prefix}events"

    def check_login(self) -> None:
        """Raises ConfigurationError, which names it, where something is not set that the login to Vault takes."""
        if missing := missing_for(self.vault_login, dict(self)):
            raise ConfigurationError(f"settings: CREDENTIALS_{missing.upper()}: is not set; Vault's login takes it")

    def as_rotator(self) -> "Settings | None":
        """The same, with the rotator's logins in the place of the runtime's; None where they aren't set.

        Raises:
            ConfigurationError: the database's is set without one to Vault; names what is missing.
        """
        if self.rotator_database_url is None:
            return None
        own = {
            name.removeprefix("rotator_"): getattr(self, name)
            for name in type(self).model_fields
            if name.startswith("rotator_vault_")
        }
        if missing := missing_for(self.rotator_vault_login, own):
            raise ConfigurationError(
                f"settings: CREDENTIALS_ROTATOR_{missing.upper()}: is not set; the rotator logs in by it"
            )
        return self.model_copy(update={**own, "database_url": self.rotator_database_url})

    @property
    def idempotency_key_name(self) -> str:
        """The transit key under which request bodies are compared. It is outside `transit_key_prefix`'s types."""
        return f"{self.transit_key_prefix}idempotency"


def load_settings(**given: Any) -> Settings:
    """Reads the settings from the environment; what is passed here wins.

    Raises:
        ConfigurationError: names each setting that is missing or wrong, never its value.
    """
    return _load(Settings, given)


def load_provider_settings(**given: Any) -> ProviderSettings:
    """As `load_settings`, for what the providers need alone."""
    return _load(ProviderSettings, given)


def load_process_settings(**given: Any) -> ProcessSettings:
    """As `load_settings`, for what is decided about the process alone."""
    return _load(ProcessSettings, given)


_Loaded = TypeVar("_Loaded", bound=BaseSettings)


def _load(kind: type[_Loaded], given: dict[str, Any]) -> _Loaded:
    folder = os.environ.get(SETTINGS_DIR) or None
    if folder is not None and not Path(folder).is_dir():
        raise ConfigurationError(f"settings: {SETTINGS_DIR}: is not a folder")
    try:
        return kind(_secrets_dir=folder, **given)
    except ValidationError as error:
        wrong = "; ".join(
            f"{_variable(kind, str(item['loc'][0]))}: {_problem(item['type'], item['msg'])}"
            for item in error.errors(include_input=False, include_context=False, include_url=False)
        )
        raise ConfigurationError(f"settings: {wrong}") from None
    except SettingsError as error:
        # A value that should be JSON and isn't, or a file that can't be read. pydantic-settings names the field in its
        # message, and no value.
        field = next((name for name in kind.model_fields if f'"{name}"' in str(error)), None)
        problem = "its file cannot be read" if "getting value" in str(error) else "must be JSON"
        raise ConfigurationError(f"settings: {_variable(kind, field)}: {problem}") from None


def _problem(kind: str, message: str) -> str:
    """Pydantic's words, where they are about the setting and not about pydantic."""
    return "is not set" if kind == "missing" else message.removeprefix("Value error, ")


def _variable(kind: type[BaseSettings], field: str | None) -> str:
    """The environment variable of a setting. (Pydantic gives a field's name, or the alias, which is the variable.)"""
    if field in kind.model_fields:
        return f"CREDENTIALS_{field.upper()}"
    return field or "a setting"
