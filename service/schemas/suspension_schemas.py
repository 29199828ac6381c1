"""What REST answers about suspensions, and the one body it takes."""

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.credential_schemas import Text

MAX_REASON = 200


class SuspendRequest(BaseModel):
    """Why a user or an account is suspended. The body, and the reason in it, may be left out."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    reason: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_REASON,
        description="For operators and auditors to read; printable, and no place for a secret.",
    )


class SuspensionDetails(BaseModel):
    """A suspension in force: nobody may use this user's credentials, or this account's."""

    model_config = ConfigDict(from_attributes=True)

    user_id: str | None = Field(description="Whose credentials; null where it is an account's.")
    account_id: Text | None = Field(description="Which account's credentials, of any user; null where it is a user's.")
    reason: str | None = Field(description="Why, if whoever suspended it said so.")
    suspended_by: str = Field(description="Who did it: role and name.")
    suspended_at: Text = Field(description="Since when (RFC 3339, UTC).")
    credentials: int | None = Field(
        default=None,
        description="How many credentials it is about now, those that are disabled too; 1001 for any more than 1000,"
        " null where they could not be counted in time. 0: nobody of that name, or no such account, has any (yet): look"
        " whether it was written right.",
    )


class SuspensionPage(BaseModel):
    """One page of suspensions; the next one is in the `Link` header."""

    status: str = Field(description="`success`.")
    suspensions: list[SuspensionDetails] = Field(description="What is in force, newest first.")
    count: int = Field(description="How many there are on this page.")
