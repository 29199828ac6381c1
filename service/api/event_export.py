"""Events as JSON lines: all that match, in one answer of any length, with no more than a page of them in memory.

How long a client may leave what was sent to it is the server's to bound: `http_protocol.LimitedProtocol`.

The format: https://github.com/ndjson/ndjson-spec (each line a JSON object, ended by a line feed).
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from service.errors import Busy
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


class Exports:
    """How many exports one process makes at the same time, and how much of the database they take.

    Guarantees, within one event loop: at most `for_caller` of one caller's under way and `in_all`, at most
    `reads_at_once` connections of the pool's for their pages. Does not: keep a caller with many names from taking
    all of them; nor bound how long an export waits for a connection.
    """

    def __init__(self, *, for_caller: int = 4, in_all: int = 32, reads_at_once: int = 2) -> None:
        self._for_caller = for_caller
        self._in_all = in_all
        self._under_way: Counter[str] = Counter()
        self._reads = asyncio.Semaphore(reads_at_once)

    @property
    def under_way(self) -> int:
        """Exports at this moment."""
        return self._under_way.total()

    @contextmanager
    def one_of(self, caller: str) -> Iterator[None]:
        """One of the caller's exports is under way in the block, however that ends.

        Raises:
            Busy: there are as many as may be, of this caller's or of all.
        """
        if self._under_way[caller] >= self._for_caller or self.under_way >= self._in_all:
            raise Busy
        self._under_way[caller] += 1
        try:
            yield
        finally:
            self._under_way[caller] -= 1
            if not self._under_way[caller]:
                del self._under_way[caller]

    async def page(self, read: ReadPage, after: Cursor | None) -> Sequence[RecordedEvent]:
        """What `read` returns or raises, in turn with the other exports' reads."""
        async with self._reads:
            return await read(after, PAGE)


def install_exports(app: FastAPI) -> None:
    """Gives the application its bounds, as `app.state.exports`."""
    app.state.exports = Exports()


class LinesResponse(StreamingResponse):
    """All events from after the cursor, newest first.

    Guarantees: it is one of the caller's exports from its start to its end, with its place free again after that; the
    first page is read before the answer begins, so that what can't be read at all, or is too much at once, is a proper
    error, raised when the answer is to be sent; what is committed before that page, and matches, is in it once. A
    client that goes away ends it. Does not: say at its head how many lines will come; where something fails half-way,
    the answer breaks off without HTTP's own end, which every client notices.
    """

    def __init__(self, read: ReadPage, after: Cursor | None, *, exports: Exports, caller: str) -> None:
        super().__init__((), media_type=JSON_LINES, headers={"Vary": "Accept"})
        self._read = read
        self._after = after
        self._exports = exports
        self._caller = caller

    async def stream_response(self, send: Send) -> None:
        """As Starlette's. Raises Busy, or what `read` raises, before anything is sent."""
        # The place is taken here and not where this object is made: one that is never sent holds none.
        with self._exports.one_of(self._caller):
            first = await self._exports.page(self._read, self._after)
            self.body_iterator = self._lines(first)
            await super().stream_response(send)

    async def _lines(self, page: Sequence[RecordedEvent]) -> AsyncIterator[str]:
        while page:
            yield "".join(CredentialEvent.model_validate(event).model_dump_json() + "\n" for event in page)
            if len(page) < PAGE:
                return
            page = await self._exports.page(self._read, Cursor(page[-1].at, page[-1].id))
