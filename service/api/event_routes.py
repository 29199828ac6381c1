"""The history: what was done, or refused, with credentials and keys."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.api.credential_routes import CredentialId
from service.api.error_responses import documented
from service.api.event_export import JSON_LINES, Exports, LinesResponse, wants_lines
from service.api.pagination import cut_page, event_cursor
from service.api.query_parameters import CredentialEventQuery, EventQuery, OnceEach
from service.api.runtime import ApiRuntime
from service.authz.dependencies import MayReadEvents
from service.errors import InvalidInput
from service.modules.input_checks import uuid_from
from service.modules.records import Cursor, EventFilter, ReadAccess, RecordedEvent
from service.schemas.credential_metadata import CredentialEvent, EventPage

router = APIRouter(prefix="/v1", tags=["events"], responses=documented(401, 403, 404, 422, 500, 502, 503))

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page; with `Accept: application/x-ndjson` all events that match, one JSON object a line.",
        "model": EventPage,
        "content": {JSON_LINES: {"schema": {"type": "string"}}},
        "headers": {
            "Link": {
                "description": 'The next page, `rel="next"`; absent on the last, and of JSON lines.',
                "schema": {"type": "string"},
            }
        },
    }
}


@router.get("/credentials/{credential_id}/events", response_model=None, responses=_EVENTS)
async def list_credential_events(
    access: MayReadEvents,
    runtime: ApiRuntime,
    _once: OnceEach,
    credential_id: CredentialId,
    query: Annotated[CredentialEventQuery, Query()],
    request: Request,
    response: Response,
) -> EventPage | Response:
    """One credential's events, newest first, also after it was deleted."""
    wanted = query.as_filter(credential_id=uuid_from("credential_id", credential_id))
    return await _answer(access, runtime, wanted, query, request, response)


@router.get("/events", response_model=None, responses=_EVENTS)
async def list_events(
    access: MayReadEvents,
    runtime: ApiRuntime,
    _once: OnceEach,
    query: Annotated[EventQuery, Query()],
    request: Request,
    response: Response,
) -> EventPage | Response:
    """Events, newest first: an owner's own, an auditor's all."""
    wanted = query.as_filter(credential_id=query.credential_id, user_id=query.user)
    return await _answer(access, runtime, wanted, query, request, response)


async def _answer(
    access: ReadAccess,
    runtime: ApiRuntime,
    wanted: EventFilter,
    query: CredentialEventQuery,
    request: Request,
    response: Response,
) -> EventPage | Response:
    after = event_cursor(query.cursor)

    async def read(cursor: Cursor | None, limit: int) -> list[RecordedEvent]:
        return await runtime.reader.events(access, wanted, cursor, limit)

    if wants_lines(request):
        if "limit" in query.model_fields_set:
            raise InvalidInput("limit", "is for pages; JSON lines are all that match")
        exports: Exports = request.app.state.exports
        return LinesResponse(read, after, exports=exports, caller=access.actor)
    page = cut_page(request, response, await read(after, query.limit + 1), query.limit, _place)
    response.headers["Vary"] = "Accept"
    shown = [CredentialEvent.model_validate(event) for event in page]
    return EventPage(status="success", events=shown, count=len(shown))


def _place(event: RecordedEvent) -> Cursor:
    return Cursor(event.at, event.id)
