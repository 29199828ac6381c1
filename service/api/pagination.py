"""Pages by an opaque cursor: the place after which the next one begins. Rows that come or go don't move it."""

import base64
import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

from fastapi import Request, Response

from service.errors import InvalidInput
from service.modules.records import Cursor

# A tag for what is paged, microseconds since 1970 (signed), then a UUID's bytes or an event's number. The tag keeps
# one list's cursor from being taken for another's.
_CREDENTIALS = struct.Struct(">cq16s")
_EVENTS = struct.Struct(">cqq")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT = re.compile(r"[A-Za-z0-9_-]{1,64}")

Item = TypeVar("Item")


def encode_cursor(cursor: Cursor) -> str:
    """The cursor as URL-safe text."""
    micros = (cursor.at - _EPOCH) // timedelta(microseconds=1)
    if isinstance(cursor.id, UUID):
        packed = _CREDENTIALS.pack(b"c", micros, cursor.id.bytes)
    else:
        packed = _EVENTS.pack(b"e", micros, cursor.id)
    return _base64url(packed)


def credential_cursor(text: str | None) -> Cursor | None:
    """A cursor over credentials; None for None. Raises InvalidInput for what `encode_cursor` didn't make."""
    if text is None:
        return None
    tag, micros, raw = _CREDENTIALS.unpack(_decoded(text, _CREDENTIALS.size))
    if tag != b"c":
        raise _invalid()
    return Cursor(_time(micros), UUID(bytes=raw))


def event_cursor(text: str | None) -> Cursor | None:
    """A cursor over events; None for None. Raises InvalidInput for what `encode_cursor` didn't make."""
    if text is None:
        return None
    tag, micros, number = _EVENTS.unpack(_decoded(text, _EVENTS.size))
    if tag != b"e" or number < 0:
        raise _invalid()
    return Cursor(_time(micros), number)


def cut_page(
    request: Request, response: Response, found: Sequence[Item], limit: int, cursor_of: Callable[[Item], Cursor]
) -> list[Item]:
    """The page out of `limit + 1` found items, with a `Link` to the next one (RFC 8288) if there is more.

    The link is relative and keeps the request's other parameters, which have been validated.
    """
    page = list(found[:limit])
    if len(found) > limit:
        kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        query = urlencode([*kept, ("cursor", encode_cursor(cursor_of(page[-1])))])
        response.headers["Link"] = f'<{quote(request.url.path)}?{query}>; rel="next"'
    return page


def _decoded(text: str, size: int) -> bytes:
    if not _TEXT.fullmatch(text) or len(text) % 4 == 1:
        raise _invalid()
    packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # One text for each cursor: the last character has bits that the decoder ignores.
    if len(packed) != size or _base64url(packed) != text:
        raise _invalid()
    return packed


def _base64url(packed: bytes) -> str:
    return str(base64.urlsafe_b64encode(packed), "ascii").rstrip("=")


def _time(micros: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise _invalid() from None


def _invalid() -> InvalidInput:
    return InvalidInput("cursor", "is not one that this list gave")
