"""Query parameters, strictly: typed, known, given once. As FastAPI parameter models, so that OpenAPI has them."""

import re
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.errors import InvalidInput
from service.modules.input_checks import check_user_id, uuid_from
from service.modules.records import Action, CredentialFilter, EventFilter, Outcome

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

# RFC 3339, 5.6; to the microsecond, which is what Postgres keeps.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _refused(problem: str) -> PydanticCustomError:
    """What a validator here raises: fixed text, which `validation_problems` passes on as it is."""
    return PydanticCustomError("own", problem)


def _uuid(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return uuid_from("", value)
    except InvalidInput as error:
        raise _refused(error.problem) from None


def _bool(value: object) -> object:
    # pydantic would take yes, on, 1 and t as well.
    if isinstance(value, str):
        if value not in ("true", "false"):
            raise _refused("must be true or false")
        return value == "true"
    return value


def _limit(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[1-9][0-9]{0,8}", value):
        raise _refused(f"must be a whole number from 1 to {MAX_LIMIT}")
    return value


def _time(value: object) -> object:
    if isinstance(value, str):
        if not _TIME.fullmatch(value):
            raise _refused("must be a time with an offset, as 2026-01-31T12:00:00Z (RFC 3339)")
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise _refused("is not a time there is") from None
    return value


def _name(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return check_user_id(value)
    except InvalidInput as error:
        raise _refused(error.problem) from None


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 512})]
Time = Annotated[AwareDatetime, BeforeValidator(_time)]


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class PageQuery(_Parameters):
    """Which page."""

    limit: Annotated[int, BeforeValidator(_limit)] = Field(
        default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="How many a page has at most."
    )
    cursor: str | None = Field(default=None, description="From the page before, by its `Link` header. Opaque.")


class CredentialQuery(PageQuery):
    """Which credentials."""

    account_id: Annotated[UUID, BeforeValidator(_uuid)] | None = Field(default=None, description="Of this account.")
    credential_type: Name | None = Field(default=None, description="Of this type.")
    is_active: Annotated[bool, BeforeValidator(_bool)] | None = Field(
        default=None, description="Only enabled (true) or only disabled ones (false)."
    )
    updated_before: Time | None = Field(
        default=None, description="Not changed by their user since this time (RFC 3339): old keys."
    )
    validated: Annotated[bool, BeforeValidator(_bool)] | None = Field(
        default=None, description="Only those whose present keys the provider has been asked about (true), or not."
    )
    used: Annotated[bool, BeforeValidator(_bool)] | None = Field(
        default=None, description="Only those that have ever been opened (true), or never (false)."
    )
    suspect: Annotated[bool, BeforeValidator(_bool)] | None = Field(
        default=None, description="Only those whose present keys their provider refuses (true), or the others (false)."
    )

    def as_filter(self) -> CredentialFilter:
        """In the domain's terms."""
        return CredentialFilter(
            account_id=self.account_id,
            credential_type=self.credential_type,
            is_active=self.is_active,
            updated_before=self.updated_before,
            validated=self.validated,
            used=self.used,
            suspect=self.suspect,
        )


class CredentialEventQuery(PageQuery):
    """Which events of one credential."""

    actor: Name | None = Field(default=None, description="Done by this actor: `role:name`.")
    action: Action | None = Field(default=None, description="Of this action.")
    outcome: Outcome | None = Field(default=None, description="With this outcome.")
    since: Time | None = Field(default=None, description="At this time or later (RFC 3339).")
    until: Time | None = Field(default=None, description="Before this time (RFC 3339).")

    def as_filter(self, *, credential_id: UUID | None = None, user_id: str | None = None) -> EventFilter:
        """In the domain's terms."""
        return EventFilter(
            credential_id=credential_id,
            user_id=user_id,
            actor=self.actor,
            action=self.action.value if self.action else None,
            outcome=self.outcome.value if self.outcome else None,
            since=self.since,
            until=self.until,
        )


class EventQuery(CredentialEventQuery):
    """Which events."""

    credential_id: Annotated[UUID, BeforeValidator(_uuid)] | None = Field(
        default=None, description="Of this credential."
    )
    user: Name | None = Field(default=None, description="About this user's credentials.")


async def _once_each(request: Request) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        raise InvalidInput("query", "has a parameter more than once")


async def _none(request: Request) -> None:
    if request.scope["query_string"]:
        raise InvalidInput("query", "has an unknown parameter")


OnceEach = Annotated[None, Depends(_once_each)]
"""Each parameter once: FastAPI would take the last one and drop the others without a word."""

NoQuery = Annotated[None, Depends(_none)]
"""No query at all."""
