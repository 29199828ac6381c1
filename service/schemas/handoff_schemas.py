"""What REST takes and answers at a hand-off. One answer has a secret: the wrapping token, which is worth the keys."""

from typing import Annotated, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer

from service.schemas.credential_schemas import Text
from service.schemas.whole_number import WHOLE

MAX_TTL = 300
UnwrapFailure = Literal["already_used", "expired", "wrong_creation_path", "vault_unavailable", "unreadable"]


class HandOffRequest(BaseModel):
    """How long the wrapping token is to last."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    ttl: Annotated[int, Field(ge=1, le=MAX_TTL), WHOLE] | None = Field(
        default=None, description="Seconds, 300 at most; the service's setting where it is not given."
    )


class HandOffResponse(BaseModel):
    """A single-use token, to be unwrapped at Vault: whoever brings it first gets the keys.

    Shows stars, but in JSON, which is how it is answered.
    """

    model_config = ConfigDict(hide_input_in_errors=True, cache_strings="none", frozen=True)

    handoff_id: Text = Field(description="The hand-off's id (a UUID): its event's and Vault's audit entry's batch id.")
    wrapping_token: SecretStr = Field(
        description="Worth the keys: neither to be kept nor logged. The answer to unwrapping it has `plaintext`, base64"
        " of the API key, a newline, and the secret key.",
        json_schema_extra={"writeOnly": False},  # which pydantic says of every `SecretStr`
    )
    expires_at: Text = Field(description="When the token expires, by Vault's clock (RFC 3339, UTC).")
    creation_path: str = Field(
        description="What `sys/wrapping/lookup` has to say that the token was made for; else somebody exchanged it."
    )
    vault_addr: str = Field(description="Where to unwrap.")
    vault_namespace: str | None = Field(description="Vault's namespace, where there is one.")
    credential_type: str = Field(description="Whose API the keys are for.")
    account_type: Literal["paper", "live"] | None = Field(description="Null where it is not known.")
    secret_version: int = Field(description="Which of the credential's secrets it is.")

    @field_serializer("wrapping_token", when_used="json")
    def reveal_wrapping_token(self, value: SecretStr) -> str:
        """The one place that the token leaves by."""
        return value.get_secret_value()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an answer with a wrapping token can't be pickled")

    def __copy__(self) -> NoReturn:
        raise TypeError("an answer with a wrapping token can't be copied")

    def __deepcopy__(self, _memo: object = None) -> NoReturn:
        raise TypeError("an answer with a wrapping token can't be copied")


class HandOffFailureRequest(BaseModel):
    """What the client says of a token that it could not unwrap."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    reason: UnwrapFailure = Field(
        description="`already_used`: Vault no longer knows the token before its time. `wrong_creation_path`: it was"
        " made for something else. Both mean that somebody else may have the keys."
    )
