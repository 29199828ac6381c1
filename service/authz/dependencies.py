"""Authorisation as a parameter's type: a route that takes a `MayStore` is reached only by who may store.

Each of the names below is what a route's parameter is annotated with. The token is verified and the table asked
before anything else of the request is looked at.
"""

import hashlib
import logging
import re
from typing import Annotated, Protocol

from fastapi import Depends, Header, Request
from fastapi.security import HTTPBearer

from service.authz.identity import TokenVerifier
from service.authz.policy import (
    ACCOUNT_TYPE_HEADER,
    ON_BEHALF_HEADER,
    Identity,
    Permission,
    authorise,
    authorise_key_administration,
    authorise_key_reading,
    authorise_owner,
    authorise_suspension,
    authorise_suspension_reading,
    required_account_type,
)
from service.errors import AuthenticationFailed, ConfigurationError, InvalidInput, PermissionDenied, TokenMissing
from service.modules.records import (
    KeyAdminAccess,
    KeyReadAccess,
    OwnerAccess,
    ReadAccess,
    SuspensionAccess,
    SuspensionReadAccess,
)
from service.observability import current_request_id
from service.settings import Settings

_log = logging.getLogger(__name__)

# RFC 6750, 2.1: the scheme in any case (RFC 9110, 11.1), one or more spaces, b64token.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +(?P<token>[A-Za-z0-9\-._~+/]+=*)")
# Only to have the scheme in the OpenAPI document; FastAPI's own parsing takes the first of several headers.
_scheme = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    bearerFormat="JWT",
    description="A JWT of the configured OIDC issuer (`vault-credentials token` mints one in the local stack).",
)


class _Runtime(Protocol):
    @property
    def identity(self) -> TokenVerifier | None: ...
    @property
    def settings(self) -> Settings: ...


async def _identity(request: Request, _documented: Annotated[object, Depends(_scheme)]) -> Identity:
    given = request.headers.getlist("authorization")
    if not given:
        raise TokenMissing
    if len(given) > 1:
        raise AuthenticationFailed
    bearer = _BEARER.fullmatch(given[0])
    if bearer is None:
        # Another scheme is no token; a bearer token that is none is a bad one.
        raise AuthenticationFailed if given[0][:6].lower() == "bearer" else TokenMissing
    runtime: _Runtime = request.app.state.runtime
    if runtime.identity is None:
        raise ConfigurationError("CREDENTIALS_OIDC_ISSUER: is not set, so no token can be checked")
    return await runtime.identity.verify(bearer["token"])


async def _on_behalf_of(
    request: Request,
    _documented: Annotated[
        str | None,
        Header(
            alias=ON_BEHALF_HEADER,
            description="The user an orchestrator acts for (UTF-8). Required of orchestrators, refused of all others.",
            json_schema_extra={"minLength": 1, "maxLength": 512},
        ),
    ] = None,
) -> str | None:
    name = ON_BEHALF_HEADER.lower().encode()
    given = [value for header, value in request.scope["headers"] if header == name]
    if len(given) > 1:
        raise InvalidInput(ON_BEHALF_HEADER, "must be given once")
    # Bytes that are no UTF-8 become lone surrogates, which the policy refuses where the header is allowed at all.
    return str(given[0], "utf-8", "surrogateescape") if given else None


_Caller = Annotated[Identity, Depends(_identity)]
_OnBehalfOf = Annotated[str | None, Depends(_on_behalf_of)]
_DocumentedAccountType = Annotated[
    str | None,
    Header(
        alias=ACCOUNT_TYPE_HEADER,
        description="`paper` or `live`: refuse what is saved or used here if its account is of the other type. Not yet "
        "known counts as live. Providers whose accounts have no type are not concerned.",
        json_schema_extra={"enum": ["paper", "live"]},
    ),
]


def _log_denial(caller: Identity, permission: Permission) -> None:
    """A line for each 403. It names nobody: who knows the name can find the line by its hash's beginning."""
    _log.warning(
        "permission denied",
        extra={
            "roles": sorted(caller.roles),
            "permission": permission.value,
            "subject_sha256": hashlib.sha256(caller.subject.encode()).hexdigest()[:12],
        },
    )


class _OwnerMay:
    """The caller's right to act on one user's credentials."""

    def __init__(self, permission: Permission) -> None:
        self._permission = permission

    async def __call__(self, caller: _Caller, on_behalf_of: _OnBehalfOf) -> OwnerAccess:
        try:
            return authorise_owner(caller, self._permission, on_behalf_of, request_id=current_request_id())
        except PermissionDenied:
            _log_denial(caller, self._permission)
            raise


class _OwnerMayUse(_OwnerMay):
    """The caller's right to save or use one user's credentials, with the account type that these must have."""

    async def __call__(  # type: ignore[override]  # FastAPI calls it by these names
        self,
        request: Request,
        caller: _Caller,
        on_behalf_of: _OnBehalfOf,
        _documented: _DocumentedAccountType = None,
    ) -> OwnerAccess:
        access = await super().__call__(caller, on_behalf_of)
        given = request.headers.getlist(ACCOUNT_TYPE_HEADER)
        if len(given) > 1:
            raise InvalidInput(ACCOUNT_TYPE_HEADER, "must be given once")
        runtime: _Runtime = request.app.state.runtime
        return required_account_type(
            access,
            given[0] if given else None,
            refuse_live=runtime.settings.refuse_live,
            refuse_live_roles=runtime.settings.refuse_live_roles,
        )


class _ReaderMay:
    """The caller's right to read one user's metadata, or everybody's."""

    def __init__(self, permission: Permission) -> None:
        self._permission = permission

    async def __call__(self, caller: _Caller, on_behalf_of: _OnBehalfOf) -> ReadAccess:
        try:
            return authorise(caller, self._permission, on_behalf_of, request_id=current_request_id())
        except PermissionDenied:
            _log_denial(caller, self._permission)
            raise


async def _may_read_keys(caller: _Caller, on_behalf_of: _OnBehalfOf) -> KeyReadAccess:
    try:
        return authorise_key_reading(caller, on_behalf_of, request_id=current_request_id())
    except PermissionDenied:
        _log_denial(caller, Permission.READ_KEYS)
        raise


async def _may_administer_keys(caller: _Caller, on_behalf_of: _OnBehalfOf) -> KeyAdminAccess:
    try:
        return authorise_key_administration(caller, on_behalf_of, request_id=current_request_id())
    except PermissionDenied:
        _log_denial(caller, Permission.ADMINISTER_KEYS)
        raise


async def _may_read_suspensions(caller: _Caller, on_behalf_of: _OnBehalfOf) -> SuspensionReadAccess:
    try:
        return authorise_suspension_reading(caller, on_behalf_of, request_id=current_request_id())
    except PermissionDenied:
        _log_denial(caller, Permission.READ_SUSPENSIONS)
        raise


async def _may_suspend(caller: _Caller, on_behalf_of: _OnBehalfOf) -> SuspensionAccess:
    try:
        return authorise_suspension(caller, on_behalf_of, request_id=current_request_id())
    except PermissionDenied:
        _log_denial(caller, Permission.ADMINISTER_SUSPENSIONS)
        raise


MayStore = Annotated[OwnerAccess, Depends(_OwnerMayUse(Permission.STORE))]
MayUpdate = Annotated[OwnerAccess, Depends(_OwnerMayUse(Permission.UPDATE))]
MayHandOff = Annotated[OwnerAccess, Depends(_OwnerMayUse(Permission.HAND_OFF))]
MayProxy = Annotated[OwnerAccess, Depends(_OwnerMayUse(Permission.PROXY))]
MayTrade = Annotated[OwnerAccess, Depends(_OwnerMayUse(Permission.TRADE))]
MayRollBack = Annotated[OwnerAccess, Depends(_OwnerMayUse(Permission.ROLL_BACK))]
MayDelete = Annotated[OwnerAccess, Depends(_OwnerMay(Permission.DELETE))]
MayValidate = Annotated[OwnerAccess, Depends(_OwnerMay(Permission.VALIDATE))]
MayValidateGiven = Annotated[OwnerAccess, Depends(_OwnerMay(Permission.VALIDATE_GIVEN))]
MayRead = Annotated[ReadAccess, Depends(_ReaderMay(Permission.READ))]
MayReadEvents = Annotated[ReadAccess, Depends(_ReaderMay(Permission.READ_EVENTS))]
MayReadKeys = Annotated[KeyReadAccess, Depends(_may_read_keys)]
MayReadSuspensions = Annotated[SuspensionReadAccess, Depends(_may_read_suspensions)]
MaySuspend = Annotated[SuspensionAccess, Depends(_may_suspend)]
MayAdministerKeys = Annotated[KeyAdminAccess, Depends(_may_administer_keys)]
