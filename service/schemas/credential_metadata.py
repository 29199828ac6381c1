"""What REST answers beyond the seed's six schemas: more metadata, events. Still never a secret."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.credential_schemas import CredentialResponse, ListCredentialsResponse, Text


class CredentialMetadata(CredentialResponse):
    """A credential's metadata as REST shows it: the seed's fields and what an operator asks next."""

    user_id: str = Field(description="Whose credential it is.")
    account_type: Literal["paper", "live"] | None = Field(
        description="Known from a validation, reset by an update; null where it is not known."
    )
    validation_state: Literal["unvalidated", "valid", "invalid"] = Field(
        description="What the provider said of these keys when last asked."
    )
    last_validated_at: Text | None = Field(description="When the provider was last asked (RFC 3339, UTC).")
    suspect_since: Text | None = Field(
        description="Since when the provider has refused these keys (RFC 3339, UTC), in a validation or a call; null"
        " where it has not, or has accepted them since."
    )
    last_used_at: Text | None = Field(description="When it was last opened, to the minute (RFC 3339, UTC).")
    secret_version: int = Field(description="Counts the secrets this credential has had, from 1.")
    transit_key: str = Field(description="The Vault transit key that the secret is encrypted with.")
    transit_key_version: int = Field(description="The version of that key.")
    can_roll_back: bool = Field(description="Whether the secret before the last update is still kept.")


class CredentialPage(ListCredentialsResponse):
    """One page of credentials; the next one is in the `Link` header."""

    credentials: list[CredentialMetadata] = Field(description="The page's credentials, newest first.")  # type: ignore[assignment]


class CredentialEvent(BaseModel):
    """One thing that was done, or refused, with a credential."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="Counts events; not without gaps.")
    at: Text = Field(description="When (RFC 3339, UTC).")
    credential_id: Text | None = Field(
        description="Which credential; null if what was asked for is no UUID, and where it is about a key."
    )
    user_id: str | None = Field(description="Whose credential it is; null where there is no such credential.")
    account_id: Text | None = Field(description="The credential's account.")
    acting_user: str | None = Field(
        description="The user it was done as, or on behalf of; null for what is done to keys, and rewraps."
    )
    actor: str = Field(description="Who did it: role and name from the token, or the embedding program.")
    action: str = Field(description="What was done.")
    outcome: Literal["granted", "denied", "done", "failed"] = Field(description="How it ended.")
    reason: str | None = Field(description="Why it was denied or failed.")
    transit_key: str | None = Field(description="The transit key involved.")
    transit_key_version: int | None = Field(description="The key version involved.")
    batch_id: Text | None = Field(description="Sent to Vault with the request: joins this to Vault's audit log.")
    request_id: str | None = Field(description="The request's id, as in the service's log.")


class EventPage(BaseModel):
    """One page of events; the next one is in the `Link` header."""

    status: str = Field(description="`success`.")
    events: list[CredentialEvent] = Field(description="The page's events, newest first.")
    count: int = Field(description="How many there are on this page.")
