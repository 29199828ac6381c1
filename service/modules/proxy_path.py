"""What a proxied call's address may be. Everything is refused that two parsers could read in two ways.

The path is taken from the bytes as they were sent (ASGI's `raw_path`), because the server's own `path` has been decoded
already: `%2F` is a slash there. It is decoded once, held against a strict alphabet, and what goes on is made anew from
what was understood, so that the provider's server sees exactly what the tables and rules were asked about.
(https://portswigger.net/web-security/access-control, "URL-matching discrepancies"; RFC 3986, 6.2.2 and 7.3)
"""

import re
from dataclasses import dataclass
from typing import Final

from service.errors import InvalidInput

MAX_PATH: Final = 1024
"""Bytes of the provider's path, as sent."""
MAX_QUERY: Final = 8192
"""Bytes of the query, as sent."""

_PREFIX: Final = "/v1/credentials/"
_BETWEEN: Final = "/proxy/"
_ADDRESS: Final = re.compile(rb"/v1/credentials/([^/]*)/proxy/(.*)", re.DOTALL)
_CREDENTIAL: Final = re.compile(rb"[0-9A-Za-z-]+")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
# Legal in a path as they are (RFC 3986, 3.3), so that there is one way to write each; those with a meaning somewhere
# (`;` begins parameters, `@` ends user information, `\` is a slash to some, `*` and `'` are quoted here and there) are
# not among them.
_SEGMENT: Final = re.compile(rb"[A-Za-z0-9._~:,+-]+")
_QUERY: Final = re.compile(rb"[!-~]*")


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Where a proxied call is to go. Both parts are plain ASCII."""

    credential_id: str
    """As it was sent; whether it is a credential's id is not known."""
    path: str
    """Begins with a slash; has no empty, `.` or `..` segment and no escape."""


def is_proxy_path(path: str) -> bool:
    """Whether a request's path, as the server decoded it, is one that only a proxied call can be meant by."""
    return path.startswith(_PREFIX) and _BETWEEN in path


def parse_proxy_path(raw_path: bytes) -> ProxyAddress:
    """The address in a request's path.

    Raises:
        InvalidInput: names `path`. There is an empty, `.` or `..` segment, a slash, backslash, percent sign, control
            character or anything else in an escape that is not of the alphabet (so nothing is decoded twice), a
            character that is not of it, a colon at a segment's end (`https:`), or more than `MAX_PATH` bytes.
    """
    found = _ADDRESS.fullmatch(raw_path)
    if found is None:
        # An escaped slash, which the server had taken for one.
        raise InvalidInput("path", "is not of a credential")
    credential, path = found.groups()
    if len(path) > MAX_PATH:
        raise InvalidInput("path", f"must have at most {MAX_PATH} bytes")
    if not _CREDENTIAL.fullmatch(credential):
        raise InvalidInput("path", "the credential's id must be letters, digits and dashes, not escaped")
    return ProxyAddress(credential.decode("ascii"), "".join(f"/{_segment(each)}" for each in path.split(b"/")))


def check_proxy_query(query: bytes) -> str:
    """The query as it was sent, without its question mark; it goes on unchanged.

    Raises:
        InvalidInput: names `query`. It isn't printable ASCII, holds a `#`, or is longer than `MAX_QUERY` bytes.
    """
    if len(query) > MAX_QUERY:
        raise InvalidInput("query", f"must have at most {MAX_QUERY} bytes")
    if not _QUERY.fullmatch(query) or b"#" in query:
        raise InvalidInput("query", "must be printable ASCII without #")
    return query.decode("ascii")


def _segment(raw: bytes) -> str:
    if not raw:
        raise InvalidInput("path", "must have no empty segment")
    decoded = _ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]), raw)
    # A percent sign that is left is half an escape, or the beginning of one that was escaped itself.
    if not _SEGMENT.fullmatch(decoded):
        raise InvalidInput("path", "has a character that may not be in it, or an escape of one")
    if not decoded.strip(b"."):
        raise InvalidInput("path", "must have no segment of dots")
    if decoded.startswith(b":") or decoded.endswith(b":"):
        raise InvalidInput("path", "must have no segment that begins or ends with a colon")
    return decoded.decode("ascii")
