"""The kill switch over REST: suspending users and accounts, lifting that, and seeing what is in force."""

from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from service.api.direct_route import DirectRoute
from service.api.error_responses import documented
from service.api.json_body import SuspendBody
from service.api.pagination import credential_cursor, cut_page
from service.api.query_parameters import NoQuery, OnceEach, PageQuery
from service.api.runtime import ApiRuntime
from service.authz.dependencies import MayReadSuspensions, MaySuspend
from service.errors import InvalidInput
from service.modules.records import Cursor, Suspension
from service.schemas.suspension_schemas import SuspendRequest, SuspensionDetails, SuspensionPage

router = APIRouter(
    prefix="/v1",
    tags=["suspensions"],
    responses=documented(401, 403, 422, 500, 502, 503),
    route_class=DirectRoute,
)

_AT_USER = "/users/{user_id:path}/suspension"
_AT_ACCOUNT = "/accounts/{account_id}/suspension"
_LINK = {"Link": {"description": 'The next page, `rel="next"`; absent on the last.', "schema": {"type": "string"}}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{SuspendRequest.__name__}"}}},
    }
}

AccountId = Annotated[
    str, Path(description="The orchestrator's id of the account (a UUID).", json_schema_extra={"format": "uuid"})
]


async def _user_id(
    request: Request,
    _documented: Annotated[
        str, Path(alias="user_id", description="The user's name, percent-encoded, its slashes and dots too.")
    ],
) -> str:
    """The user whom the address names. A user's name may hold slashes, which the router sees decoded: so the address is
    taken apart as it was sent.
    """
    parts = request.scope["raw_path"].split(b"/")
    # To the letter: with `/users%2Falice/bob/suspension` the router is content too, and it names nobody.
    if len(parts) != 5 or parts[:3] != [b"", b"v1", b"users"] or parts[4] != b"suspension":
        raise HTTPException(404)
    try:
        return str(unquote_to_bytes(parts[3]), "utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("user_id", "must be percent-encoded UTF-8") from None


UserId = Annotated[str, Depends(_user_id)]


@router.get("/suspensions", responses={200: {"headers": _LINK}})
async def list_suspensions(
    access: MayReadSuspensions,
    runtime: ApiRuntime,
    _once: OnceEach,
    query: Annotated[PageQuery, Query()],
    request: Request,
    response: Response,
) -> SuspensionPage:
    """What is in force, newest first, a page at a time."""
    found = await runtime.suspensions.page(access, credential_cursor(query.cursor), query.limit + 1)
    page = cut_page(request, response, found, query.limit, lambda last: Cursor(last.suspended_at, last.id))
    return SuspensionPage(status="success", suspensions=[_shown(each) for each in page], count=len(page))


@router.get(_AT_USER, responses=documented(404))
async def get_user_suspension(
    access: MayReadSuspensions, runtime: ApiRuntime, _query: NoQuery, user_id: UserId
) -> SuspensionDetails:
    """A user's suspension; 404 `not-suspended` where there is none."""
    return _shown(await runtime.suspensions.get(access, user_id=user_id))


@router.post(_AT_USER, responses=documented(404, 408, 409, 413, 415), openapi_extra=_BODY)
async def suspend_user(
    access: MaySuspend, runtime: ApiRuntime, _query: NoQuery, user_id: UserId, body: SuspendBody
) -> SuspensionDetails:
    """From now on nobody may use this user's credentials: no open, hand-off or proxied call, in any replica.

    Proxied calls under way are cut: here at once, by other replicas within `CREDENTIALS_RECHECK_SECONDS`. Hand-offs
    that are out last until their time is over. Where the user is suspended already, it answers what is in force.
    """
    return _shown(await runtime.suspensions.suspend(access, user_id=user_id, reason=body.reason))


@router.delete(_AT_USER, status_code=204, response_class=Response, responses=documented(404))
async def resume_user(access: MaySuspend, runtime: ApiRuntime, _query: NoQuery, user_id: UserId) -> None:
    """Lifts a user's suspension; 404 `not-suspended` where there is none."""
    await runtime.suspensions.resume(access, user_id=user_id)


@router.get(_AT_ACCOUNT, responses=documented(404))
async def get_account_suspension(
    access: MayReadSuspensions, runtime: ApiRuntime, _query: NoQuery, account_id: AccountId
) -> SuspensionDetails:
    """An account's suspension; 404 `not-suspended` where there is none."""
    return _shown(await runtime.suspensions.get(access, account_id=account_id))


@router.post(_AT_ACCOUNT, responses=documented(408, 409, 413, 415), openapi_extra=_BODY)
async def suspend_account(
    access: MaySuspend, runtime: ApiRuntime, _query: NoQuery, account_id: AccountId, body: SuspendBody
) -> SuspensionDetails:
    """As for a user, for an account's credentials: those of every user who has one of this account."""
    return _shown(await runtime.suspensions.suspend(access, account_id=account_id, reason=body.reason))


@router.delete(_AT_ACCOUNT, status_code=204, response_class=Response, responses=documented(404))
async def resume_account(access: MaySuspend, runtime: ApiRuntime, _query: NoQuery, account_id: AccountId) -> None:
    """Lifts an account's suspension; 404 `not-suspended` where there is none."""
    await runtime.suspensions.resume(access, account_id=account_id)


def _shown(suspension: Suspension) -> SuspensionDetails:
    return SuspensionDetails.model_validate(suspension)
