"""What REST answers about transit keys and jobs, and the one body it takes. No secret and no key material."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.credential_schemas import Text
from service.schemas.whole_number import WHOLE

MAX_VERSION = 2**31 - 1
"""What a column for a key version holds."""


class RetireRequest(BaseModel):
    """Which versions of a key are to decrypt nothing any more."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    below_version: Annotated[int, Field(ge=1, le=MAX_VERSION), WHOLE] = Field(
        description="All versions below this one. At most the newest (and Vault's min_encryption_version, where that is"
        " set), at least what has been retired before.",
    )


class KeyVersionDetails(BaseModel):
    """One version of a key."""

    version: int = Field(description="Its number, from 1.")
    state: Literal["in_use", "unused", "safe_to_retire", "retired", "trimmed", "missing"] = Field(
        description="`in_use`: something is under it, or it is the newest. `unused`: nothing is, but something is under"
        " an older one. `safe_to_retire`: nothing is under it, nor under an older one. `retired`: Vault decrypts"
        " nothing that is under it. `trimmed`: gone from Vault for good. `missing`: credentials name it, but Vault has"
        " no such version."
    )
    created_at: Text | None = Field(description="When it was made (RFC 3339, UTC); null where nobody can tell.")
    created_from: Literal["vault", "noted"] | None = Field(
        description="Who tells: Vault, or, of a retired or trimmed version, a job that has noted what Vault told."
    )
    credentials: int = Field(description="How many credentials' present secrets are encrypted under it.")
    previous_secrets: int = Field(description="How many secrets that are kept for a rollback are.")
    oldest_credential_id: Text | None = Field(description="Of the credentials under it, the one stored first.")
    oldest_credential_created_at: Text | None = Field(description="When that one was stored.")


class KeyDetails(BaseModel):
    """A transit key: its versions, what is under each, and what may be retired."""

    name: str = Field(description="What Vault calls it.")
    credential_type: str = Field(description="The type of credentials that are encrypted with it.")
    transit_mount: str = Field(description="The mount in Vault that has it.")
    latest_version: int = Field(description="The newest version, which new secrets are encrypted under.")
    min_decryption_version: int = Field(description="The oldest version that Vault decrypts.")
    min_encryption_version: int = Field(description="The oldest version that Vault would encrypt under; 0: the newest.")
    min_available_version: int = Field(description="The oldest version that Vault still has; 0: all of them.")
    floor: int = Field(description="The oldest version that this service lets be written, raised by retiring.")
    safe_to_retire_below: int = Field(
        description="Retiring below this version loses nothing, as far as is known now; retiring counts again."
    )
    auto_rotate_seconds: int | None = Field(
        description="How often Vault rotates it by itself; null: never (`auto_rotate_period` in Vault)."
    )
    next_rotation_at: Text | None = Field(description="When Vault rotates it by itself next.")
    encryptions: int = Field(
        description="How many encryptions under the newest version this service's events tell of: secrets that were"
        " stored, updated, rolled back or rewrapped. Of others who use the key, and of versions that were encrypted"
        " and not kept, it knows nothing."
    )
    versions: list[KeyVersionDetails] = Field(description="Newest first.")
    warnings: list[str] = Field(description="What does not fit, and what to do; empty where all is well.")


class KeyList(BaseModel):
    """Every key of this installation."""

    status: str = Field(description="`success`.")
    keys: list[KeyDetails] = Field(description="One for each credential type.")
    count: int = Field(description="How many there are.")


class JobSummary(BaseModel):
    """A rotation, rewrap or retirement that was asked for."""

    model_config = ConfigDict(from_attributes=True)

    id: Text = Field(description="Its id (a UUID).")
    kind: Literal["rotate", "rewrap", "retire"] = Field(description="What it does.")
    transit_key: str = Field(description="To which key.")
    below_version: int | None = Field(description="Of a retirement: the versions below this one are retired.")
    state: Literal["waiting", "running", "done", "failed"] = Field(description="How far it is.")
    reason: str | None = Field(description="Why it has failed; `stopped` where somebody stopped it.")
    requested_by: str = Field(description="Who asked for it: role and name.")
    request_id: str | None = Field(description="The request's id, as in the service's log.")
    requested_at: Text = Field(description="When (RFC 3339, UTC).")
    started_at: Text | None = Field(description="When a worker took it up.")
    heartbeat_at: Text | None = Field(description="When a worker was last at it.")
    ended_at: Text | None = Field(description="When it was over.")
    stop_requested_by: str | None = Field(description="Who asked for it to be stopped.")
    from_version: int | None = Field(description="The key's newest version when it began.")
    to_version: int | None = Field(description="Of a rewrap: the version it goes to. Of a rotation: the one it made.")
    total: int | None = Field(description="Of a rewrap: how many credentials it is about.")
    done: int = Field(description="How many of these are done.")
    failed: int = Field(description="How many could not be done; of a retirement: how many were in its way.")
    remaining_seconds: int | None = Field(
        description="Of a rewrap under way: how long the rest takes at the pace so far. An estimate."
    )


class FailedCredential(BaseModel):
    """A credential that a job could not do, or that was in its way."""

    credential_id: Text = Field(description="Which.")
    reason: str = Field(description="Why.")


class JobDetails(JobSummary):
    """A job, with what it failed on."""

    failures: list[FailedCredential] = Field(description="The first hundred credentials it could not do.")


class VaultLinks(BaseModel):
    """Pages in Vault's own UI, for who may log in there."""

    key: str = Field(description="The key's details.")
    key_versions: str = Field(description="Its versions.")
    credentials: str = Field(description="The credentials' entries, by account.")
    credential_template: str = Field(
        description="One credential's metadata: a URI template (RFC 6570) of `account_id` and `credential_id`."
    )


class KeyReportDetails(BaseModel):
    """A key's rotation report."""

    key: KeyDetails = Field(description="The key as it is now.")
    rewrap: JobSummary | None = Field(description="The rewrap that is under way, if one is.")
    jobs: list[JobSummary] = Field(description="Who did what: the newest twenty jobs, newest first.")
    links: VaultLinks = Field(description="Where to look at it in Vault's UI.")
