"""Which header fields of a proxied call go on to the provider, and which of its answer come back: lists of what may.

A list of what may not would have to know every proxy's own header, and each provider's names for keys.
"""

import re
from collections.abc import Iterable

from service.errors import InvalidInput

_Fields = Iterable[tuple[bytes, bytes]]

# What may be several fields means the same as one with commas (RFC 9110, 5.3).
_LISTS = frozenset({"accept", "accept-encoding", "accept-language", "if-match", "if-none-match"})
_SINGLE = frozenset(
    {"content-encoding", "content-type", "if-modified-since", "if-unmodified-since", "if-range", "range"}
    | {"idempotency-key"}
)
_TO_PROVIDER = {name.encode(): name for name in _LISTS | _SINGLE}
_BODY_TOO = _TO_PROVIDER | {b"content-length": "content-length"}
_VALUE = re.compile(rb"[\t -~]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")

_TO_CALLER = frozenset(
    {b"accept-ranges", b"allow", b"content-encoding", b"content-language", b"content-length", b"content-range"}
    | {b"content-type", b"deprecation", b"etag", b"last-modified", b"link", b"retry-after", b"sunset"}
    | {b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"}
)
# The service's own answers have an X-Request-Id; Alpaca's support asks for theirs.
_RENAMED = {b"x-request-id": b"x-provider-request-id"}
_BY_PROVIDER = (b"x-answered-by", b"provider")


def has_body(fields: _Fields) -> bool:
    """Whether a request with these fields has a body (RFC 9112, 6.3).

    Raises:
        InvalidInput: it is not plain which, or what it is once the server has taken its chunks apart.
    """
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    lengths = [value for name, value in fields if name == b"content-length"]
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked" or lengths):
        # `gzip, chunked` would go on as what nobody says is compressed.
        raise InvalidInput("Transfer-Encoding", "must be chunked, once, without Content-Length")
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(value) for value in lengths):
        raise InvalidInput("Content-Length", "must be one number of at most 18 digits")
    return bool(codings) or any(value.strip(b"0") for value in lengths)


def to_provider(fields: _Fields, *, with_body: bool) -> dict[str, str]:
    """The request's fields that go on. Names are in lower case, as ASGI has them.

    Not among them: whatever authenticates the caller, cookies, the connection's own fields and those that Connection
    names (RFC 9110, 7.6.1), who is acted for, whence and through what it came, and anything not known here.

    Raises:
        InvalidInput: names the field: it is not printable ASCII, or there are two where there may be one.
    """
    fields = list(fields)
    dropped = {token.strip().lower() for name, value in fields if name == b"connection" for token in value.split(b",")}
    known = _BODY_TOO if with_body else _TO_PROVIDER
    kept: dict[str, str] = {}
    for raw_name, value in fields:
        name = known.get(raw_name)
        if name is None or raw_name in dropped:
            continue
        if not _VALUE.fullmatch(value):
            raise InvalidInput(name, "must be printable ASCII")
        text = value.decode("ascii")
        if name in kept:
            if name not in _LISTS:
                raise InvalidInput(name, "must be given once")
            text = f"{kept[name]}, {text}"
        kept[name] = text
    return kept


def to_caller(fields: _Fields, *, status: int) -> list[tuple[bytes, bytes]]:
    """The answer's fields that come back, with `X-Answered-By: provider`. No cookie, and none that allows caching.

    The length is left out where the answer is framed in another way, or has no body (RFC 9110, 8.6), or where there are
    two: what was read is then framed anew.
    """
    lowered = [(name.lower(), value) for name, value in fields]
    lengths = [value for name, value in lowered if name == b"content-length"]
    dropped = {token.strip().lower() for name, value in lowered if name == b"connection" for token in value.split(b",")}
    if (
        status in (204, 304)
        or any(name == b"transfer-encoding" for name, _ in lowered)
        or len(lengths) > 1
        or not all(_LENGTH.fullmatch(value) for value in lengths)
    ):
        dropped.add(b"content-length")
    kept = [
        (_RENAMED.get(name, name), value)
        for name, value in lowered
        if (name in _TO_CALLER or name in _RENAMED) and name not in dropped and _VALUE.fullmatch(value)
    ]
    return [*kept, _BY_PROVIDER]
