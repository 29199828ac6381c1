"""Rate limits over REST: a route that takes one of the names below is reached by who may and is within the limits.

Counted once a request is authorised, before its body is read: who may not ask uses nothing of anybody's. The answer,
whatever it is, tells how the limits stand, by the fields of draft-ietf-httpapi-ratelimit-headers-10
(https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/).
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.types import Scope

from service.api.runtime import ApiRuntime, Runtime
from service.authz.dependencies import (
    MayHandOff,
    MayProxy,
    MayRollBack,
    MayStore,
    MayTrade,
    MayUpdate,
    MayValidate,
    MayValidateGiven,
)
from service.modules.rate_limits import WINDOW, Standing, Use
from service.modules.records import OwnerAccess

HEADERS: dict[str, Any] = {
    "RateLimit-Policy": {
        "description": "The limits there are (draft-ietf-httpapi-ratelimit-headers): `q` in any `w` seconds.",
        "schema": {"type": "string", "examples": [f'"caller";q=6000;w={WINDOW}, "user";q=600;w={WINDOW}']},
    },
    "RateLimit": {
        "description": "How they stand: `r` are left, and there are more in `t` seconds.",
        "schema": {"type": "string", "examples": ['"caller";r=5990;t=31, "user";r=590;t=31']},
    },
}
"""For a route's OpenAPI document."""

_KEPT_AS = "rate_limits"


def rate_limit_fields(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The answer's header fields; none where nothing was counted, or there is no limit."""
    standings: Sequence[Standing] = scope.get("state", {}).get(_KEPT_AS, ())
    if not standings:
        return []
    policy = ", ".join(f'"{each.limit}";q={each.quota};w={WINDOW}' for each in standings)
    limits = ", ".join(f'"{each.limit}";r={each.remaining};t={each.seconds}' for each in standings)
    return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", limits.encode())]


def _counted(request: Request, runtime: Runtime, use: Use, access: OwnerAccess) -> OwnerAccess:
    """The access. Raises RateLimited."""
    limits = runtime.rate_limits
    try:
        limits.take(use, access)
    finally:
        setattr(request.state, _KEPT_AS, limits.standings(use, access))
    return access


async def _hand_off(access: MayHandOff, request: Request, runtime: ApiRuntime) -> OwnerAccess:
    return _counted(request, runtime, Use.HAND_OFF, access)


async def _validate(access: MayValidate, request: Request, runtime: ApiRuntime) -> OwnerAccess:
    return _counted(request, runtime, Use.VALIDATE, access)


async def _validate_given(access: MayValidateGiven, request: Request, runtime: ApiRuntime) -> OwnerAccess:
    return _counted(request, runtime, Use.VALIDATE, access)


async def _proxy(access: MayProxy, request: Request, runtime: ApiRuntime) -> OwnerAccess:
    return _counted(request, runtime, Use.PROXY, access)


async def _trade(access: MayTrade, request: Request, runtime: ApiRuntime) -> OwnerAccess:
    return _counted(request, runtime, Use.PROXY, access)


def _saving(access: OwnerAccess, request: Request, runtime: Runtime) -> OwnerAccess:
    """A save for one type of account has the provider asked about the keys, and so counts as a validation."""
    return access if access.account_type is None else _counted(request, runtime, Use.VALIDATE, access)


async def _store(access: MayStore, request: Request, runtime: ApiRuntime) -> OwnerAccess:
    return _saving(access, request, runtime)


async def _update(access: MayUpdate, request: Request, runtime: ApiRuntime) -> OwnerAccess:
    return _saving(access, request, runtime)


async def _roll_back(access: MayRollBack, request: Request, runtime: ApiRuntime) -> OwnerAccess:
    return _saving(access, request, runtime)


MayStoreNow = Annotated[OwnerAccess, Depends(_store)]
MayUpdateNow = Annotated[OwnerAccess, Depends(_update)]
MayRollBackNow = Annotated[OwnerAccess, Depends(_roll_back)]
MayHandOffNow = Annotated[OwnerAccess, Depends(_hand_off)]
MayValidateNow = Annotated[OwnerAccess, Depends(_validate)]
MayValidateGivenNow = Annotated[OwnerAccess, Depends(_validate_given)]
MayProxyNow = Annotated[OwnerAccess, Depends(_proxy)]
MayTradeNow = Annotated[OwnerAccess, Depends(_trade)]
