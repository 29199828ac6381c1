"""The wire's shapes: six public schemas. None of them ever shows a secret.

These six are a public interface: names, fields and types stay. Models that receive secrets refuse unknown fields,
keep inputs out of their errors (`hide_input_in_errors`) and out of pydantic's string cache, which would keep a
secret alive for the life of the process (https://docs.pydantic.dev/latest/api/config/#pydantic.config.ConfigDict.cache_strings).
"""

from datetime import UTC, datetime
from typing import Annotated, Literal, NoReturn
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr


def _text(value: object) -> object:
    """Rows hold UUIDs and times; the wire holds text."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


Text = Annotated[str, BeforeValidator(_text)]


class _SecretInput(BaseModel):
    """Not to be pickled or copied: a `SecretStr` would go with it unmasked."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, cache_strings="none", frozen=True)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a request with secrets can't be pickled")

    def __copy__(self) -> NoReturn:
        raise TypeError("a request with secrets can't be copied")

    def __deepcopy__(self, _memo: object = None) -> NoReturn:
        raise TypeError("a request with secrets can't be copied")


class StoreCredentialRequest(_SecretInput):
    """A new credential of one account. Lengths, characters and the account id's form are checked by the service."""

    account_id: str = Field(description="The orchestrator's id of the account (a UUID).")
    credential_type: str = Field(description="Whose API the credential is for, such as `alpaca` or `polygon`.")
    api_key: SecretStr = Field(description="The provider's API key (Alpaca: key id). Never returned.")
    secret_key: SecretStr = Field(description="The provider's secret key; empty for Polygon. Never returned.")


class UpdateCredentialRequest(_SecretInput):
    """What to change; a field that is not given stays as it is."""

    api_key: SecretStr | None = Field(default=None, description="A new API key. Never returned.")
    secret_key: SecretStr | None = Field(default=None, description="A new secret key. Never returned.")
    is_active: bool | None = Field(default=None, description="False disables the credential: it opens for nobody.")


class CredentialResponse(BaseModel):
    """A credential's metadata. It never holds a secret."""

    model_config = ConfigDict(from_attributes=True)

    id: Text = Field(description="The credential's id (a UUID).")
    account_id: Text = Field(description="The orchestrator's id of the account (a UUID).")
    credential_type: str = Field(description="Whose API the credential is for.")
    is_active: bool = Field(description="Whether the credential may be opened.")
    created_at: Text = Field(description="When it was stored (RFC 3339, UTC).")
    updated_at: Text = Field(description="When it was last changed by its user (RFC 3339, UTC).")


class ValidateCredentialRequest(_SecretInput):
    """Alpaca keys to be tried against Alpaca, without being stored."""

    api_key: SecretStr = Field(description="The Alpaca key id. Never returned.")
    secret_key: SecretStr = Field(description="The Alpaca secret key. Never returned.")


class ValidateCredentialResponse(BaseModel):
    """What the provider said of the keys."""

    is_valid: bool = Field(description="Whether the provider accepted the keys.")
    message: str = Field(description="The same in words.")
    account_type: Literal["paper", "live"] | None = Field(
        default=None, description="Which kind of account accepted them; null where it is not known."
    )


class ListCredentialsResponse(BaseModel):
    """One page of credentials."""

    status: str = Field(description="`success`.")
    credentials: list[CredentialResponse] = Field(description="The page's credentials, newest first.")
    count: int = Field(description="How many there are on this page.")
