"""The history: what was done, or refused, with credentials."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.api.credential_routes import CredentialId
from service.api.error_responses import documented
from service.api.pagination import cut_page, event_cursor
from service.api.query_parameters import CredentialEventQuery, EventQuery, OnceEach
from service.api.runtime import ApiRuntime
from service.authz.dependencies import MayReadEvents
from service.modules.input_checks import uuid_from
from service.modules.records import Cursor, EventFilter, ReadAccess
from service.schemas.credential_metadata import CredentialEvent, EventPage

router = APIRouter(prefix="/v1", tags=["events"], responses=documented(401, 403, 404, 422, 500, 502, 503))

_LINK = {"Link": {"description": 'The next page, `rel="next"`; absent on the last.', "schema": {"type": "string"}}}


@router.get("/credentials/{credential_id}/events", responses={200: {"headers": _LINK}})
async def list_credential_events(
    access: MayReadEvents,
    runtime: ApiRuntime,
    _once: OnceEach,
    credential_id: CredentialId,
    query: Annotated[CredentialEventQuery, Query()],
    request: Request,
    response: Response,
) -> EventPage:
    """One credential's events, newest first, also after it was deleted."""
    wanted = query.as_filter(credential_id=uuid_from("credential_id", credential_id))
    return await _page(access, runtime, wanted, query, request, response)


@router.get("/events", responses={200: {"headers": _LINK}})
async def list_events(
    access: MayReadEvents,
    runtime: ApiRuntime,
    _once: OnceEach,
    query: Annotated[EventQuery, Query()],
    request: Request,
    response: Response,
) -> EventPage:
    """Events, newest first: an owner's own, an auditor's all."""
    wanted = query.as_filter(credential_id=query.credential_id, user_id=query.user)
    return await _page(access, runtime, wanted, query, request, response)


async def _page(
    access: ReadAccess,
    runtime: ApiRuntime,
    wanted: EventFilter,
    query: CredentialEventQuery,
    request: Request,
    response: Response,
) -> EventPage:
    found = await runtime.reader.events(access, wanted, event_cursor(query.cursor), query.limit + 1)
    page = cut_page(request, response, found, query.limit, lambda last: Cursor(last.at, last.id))
    shown = [CredentialEvent.model_validate(event) for event in page]
    return EventPage(status="success", events=shown, count=len(shown))
