"""Events as JSON lines: all that match, in one answer of any length, with no more than a page of them in memory.

The format: https://github.com/ndjson/ndjson-spec (each line a JSON object, ended by a line feed).
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from fastapi import Request
from starlette.responses import StreamingResponse

from service.modules.records import Cursor, RecordedEvent
from service.schemas.credential_metadata import CredentialEvent

JSON_LINES = "application/x-ndjson"
PAGE = 200

ReadPage = Callable[[Cursor | None, int], Awaitable[Sequence[RecordedEvent]]]
"""Events from after a cursor, newest first, so many at most."""

_QUALITY = re.compile(r";[ \t]*q=([01](?:\.[0-9]{1,3})?)[ \t]*(?:;|$)", re.IGNORECASE)


def wants_lines(request: Request) -> bool:
    """Whether the Accept header (RFC 9110, 12.5.1) names JSON lines, and doesn't prefer JSON."""
    qualities = {"application/json": 0.0, JSON_LINES: 0.0}
    for header in request.headers.getlist("accept"):
        for accepted in header.split(","):
            name = accepted.partition(";")[0].strip().lower()
            if name in qualities:
                quality = _QUALITY.search(accepted)
                qualities[name] = float(quality[1]) if quality else 1.0
    return qualities[JSON_LINES] > 0 and qualities[JSON_LINES] >= qualities["application/json"]


async def lines_response(read: ReadPage, after: Cursor | None) -> StreamingResponse:
    """All events from after the cursor, newest first.

    Guarantees: the first page is read before the answer begins, so that what can't be read at all is a proper error;
    what is committed before that, and matches, is in it once. A client that goes away ends it. Does not: say at its
    head how many lines will come; where something fails half-way, the answer breaks off without HTTP's own end, which
    every client notices.
    """
    first = await read(after, PAGE)
    return StreamingResponse(_lines(read, first), media_type=JSON_LINES, headers={"Vary": "Accept"})


async def _lines(read: ReadPage, page: Sequence[RecordedEvent]) -> AsyncIterator[str]:
    while page:
        yield "".join(CredentialEvent.model_validate(event).model_dump_json() + "\n" for event in page)
        if len(page) < PAGE:
            return
        page = await read(Cursor(page[-1].at, page[-1].id), PAGE)
