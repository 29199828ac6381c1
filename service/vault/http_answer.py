"""Where an HTTP/1.1 answer begins and ends in the buffer that it is read into (RFC 9112).

Looks at the buffer by spans alone: of what may be plaintext, nothing is copied out of it. A chunked body is put
together in place. The head has no plaintext, and is looked at as `bytes`.
"""

import re
from dataclasses import dataclass

MAX_HEAD = 16 * 1024
"""Bytes of an answer's head, interim answers (100, 103) before it included."""

_HEAD_END = re.compile(rb"\r\n\r\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_FIELD_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\x00]*")
_FIELD = re.compile(
    rb"^(content-length|transfer-encoding|content-encoding|connection|retry-after):([^\r\n]*+)\r$",
    re.IGNORECASE | re.MULTILINE,
)
_LENGTH = re.compile(rb"[0-9]{1,12}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,256})?\r\n")
_MAX_CHUNK_LINE = 300
_MAX_TRAILER = 4096
_BEGINNING = b"HTTP/1."


class AnswerRefused(Exception):
    """What arrives is not an answer that is read here; the connection is of no more use. Stays within `vault/`."""


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What is used of an answer's head."""

    status: int
    retry_after: str
    """As it was sent; empty where it wasn't."""
    keeps: bool
    """Whether the server will take another request on this connection."""


class AnswerReader:
    """One answer, while its buffer is being filled.

    `feed` after each read. Once it returns True, `head`, `body` (its span in the buffer) and `end` (where the answer's
    own bytes ended, when it did) hold. `wants`: how large the buffer has to be at least, as far as is known.

    Refuses what isn't HTTP/1, a head above MAX_HEAD, a body above `limit`, two ways of telling the length at once, and
    codings that nobody asked for. Does not: time anything.
    """

    __slots__ = ("_at", "_body_at", "_chunked", "_interim", "_length", "_limit", "_out", "end", "head", "wants")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.head: AnswerHead | None = None
        self.wants = 0
        self.end: int | None = None
        self._interim = 0
        self._body_at = 0
        self._length: int | None = None
        self._chunked = False
        self._at = 0  # where in the buffer the next chunk begins
        self._out = 0  # how far the body has been put together

    @property
    def body(self) -> tuple[int, int]:
        """Where the body is, once it is whole."""
        return self._body_at, self._out

    def feed(self, view: memoryview, used: int) -> bool:
        """Looks at the first `used` bytes of the buffer. Returns whether the answer is whole; raises AnswerRefused."""
        if self.head is None and not self._read_head(view, used):
            return False
        if self._chunked:
            return self._join_chunks(view, used)
        if self._length is None:
            if used - self._body_at > self._limit:
                raise AnswerRefused
            return False  # until the connection is closed
        end = self._body_at + self._length
        if used < end:
            return False
        self.end = self._out = end
        return True

    def closed(self, used: int) -> bool:
        """The server has closed the connection: whether the answer is whole by that (RFC 9112, 6.3, rule 8)."""
        if self.head is None or self._chunked or self._length is not None:
            return False
        self.end = self._out = used
        return True

    def _read_head(self, view: memoryview, used: int) -> bool:
        while True:
            found = _HEAD_END.search(view, self._interim, min(used, MAX_HEAD))
            if found is None:
                begun = bytes(view[self._interim : min(used, self._interim + len(_BEGINNING))])
                if used >= MAX_HEAD or not _BEGINNING.startswith(begun):
                    raise AnswerRefused
                return False
            end = found.end()
            head = bytes(view[self._interim : end])
            match = _STATUS.match(head)
            if match is None:
                raise AnswerRefused
            status = int(match[2])
            if status >= 200:
                break
            if status == 101:
                raise AnswerRefused
            self._interim = end
        lines = head[match.end() : -4]
        if lines and not all(map(_FIELD_LINE.fullmatch, lines.split(b"\r\n"))):
            raise AnswerRefused
        self._use_head(status, match[1] == b"1", head, end)
        return True

    def _use_head(self, status: int, is_persistent: bool, head: bytes, end: int) -> None:
        fields: dict[bytes, bytes] = {}
        for name, found in _FIELD.findall(head):
            key, value = name.lower(), found.strip(b" \t")
            if key in fields and fields[key] != value and key != b"retry-after":
                raise AnswerRefused
            fields[key] = value
        if fields.get(b"content-encoding", b"").lower() not in (b"", b"identity"):
            raise AnswerRefused
        coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
        if coding is not None and (length is not None or coding.lower() != b"chunked"):
            raise AnswerRefused
        self._body_at = self._at = self._out = end
        if status in (204, 304):
            self._length = 0
        elif length is not None:
            if not _LENGTH.fullmatch(length) or int(length) > self._limit:
                raise AnswerRefused
            self._length = int(length)
            self.wants = end + self._length
        self._chunked = coding is not None and self._length is None
        told = [token.strip() for token in fields.get(b"connection", b"").lower().split(b",")]
        keeps = is_persistent and b"close" not in told and (self._chunked or self._length is not None)
        self.head = AnswerHead(status, fields.get(b"retry-after", b"").decode("latin-1"), keeps)

    def _join_chunks(self, view: memoryview, used: int) -> bool:
        while True:
            line = _CHUNK_LINE.match(view, self._at, used)
            if line is None:
                if used - self._at > _MAX_CHUNK_LINE:
                    raise AnswerRefused
                return False
            start, end = line.span(1)
            size = int(bytes(view[start:end]), 16)
            data = line.end()
            if size == 0:
                return self._end_chunks(view, data, used)
            if self._out - self._body_at + size > self._limit:
                raise AnswerRefused
            if used < data + size + 2:
                self.wants = data + size + 2
                return False
            if view[data + size] != 0x0D or view[data + size + 1] != 0x0A:
                raise AnswerRefused
            # Between memoryviews of the same kind this is one memmove, overlapping or not.
            view[self._out : self._out + size] = view[data : data + size]
            self._out += size
            self._at = data + size + 2

    def _end_chunks(self, view: memoryview, data: int, used: int) -> bool:
        # Trailers are passed over; the line's own CRLF may be the first half of the empty line that ends them.
        found = _HEAD_END.search(view, data - 2, used)
        if found is None:
            if used - data > _MAX_TRAILER:
                raise AnswerRefused
            return False
        self.end = found.end()
        return True
