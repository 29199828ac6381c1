"""Headers that make a change safe: If-Match and ETag (RFC 9110, 8.8.3 and 13.1.1), and Idempotency-Key."""

import re
from typing import Annotated

from fastapi import Depends, Header, Request, Response

from service.api.runtime import ApiRuntime
from service.errors import InvalidInput, PreconditionRequired
from service.modules.records import Credential

# entity-tag = [ W/ ] DQUOTE *etagc DQUOTE; obs-text arrives as Latin-1
_ENTITY_TAG = re.compile(r'(?P<weak>W/)?"(?P<opaque>[\x21\x23-\x7e\x80-\xff]*)"')
_ROW_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# For the document: what is accepted, but for other space, empty elements of the list, and obs-text.
_IF_MATCH = r'^(\*|(W/)?"[!#-~]*"(, (W/)?"[!#-~]*")*)$'
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def set_etag(response: Response, credential: Credential) -> None:
    """A strong ETag. It counts what the user changes: a rewrap leaves it as it is."""
    response.headers["ETag"] = f'"{credential.row_version}"'


def parse_if_match(values: list[str]) -> frozenset[int] | None:
    """The row versions that If-Match accepts: None for any (no header, or `*`), empty where none can fit.

    A weak tag never matches, and neither does one that we never gave (RFC 9110, 13.1.1).

    Raises:
        InvalidInput: the header is not what RFC 9110 says.
    """
    if not values or [value.strip(" \t") for value in values] == ["*"]:
        return None
    versions: set[int] = set()
    for element in _elements(", ".join(values)):
        if element["weak"] is None and _ROW_VERSION.fullmatch(element["opaque"]):
            versions.add(int(element["opaque"]))
    return frozenset(versions)


def _elements(text: str) -> list[re.Match[str]]:
    elements: list[re.Match[str]] = []
    position, separated = 0, True
    while position < len(text):
        if text[position] in " \t,":
            separated = separated or text[position] == ","
            position += 1
            continue
        found = _ENTITY_TAG.match(text, position)
        if found is None or not separated:
            raise InvalidInput("If-Match", 'must be * or a list of ETags, as "3"')
        elements.append(found)
        position, separated = found.end(), False
    if not elements:
        raise InvalidInput("If-Match", "must not be empty")
    return elements


async def _if_match(
    request: Request,
    runtime: ApiRuntime,
    _documented: Annotated[
        str | None,
        Header(
            alias="If-Match",
            description="Change only if the credential still has this ETag.",
            json_schema_extra={"examples": ['"1"'], "pattern": _IF_MATCH},
        ),
    ] = None,
) -> frozenset[int] | None:
    values = request.headers.getlist("if-match")
    if not values and runtime.settings.require_if_match:
        raise PreconditionRequired
    return parse_if_match(values)


async def _idempotency_key(
    request: Request,
    _documented: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="1 to 255 visible ASCII characters. The same key and body again: the same answer, stored once.",
            json_schema_extra={"pattern": "^[!-~]{1,255}$", "minLength": 1, "maxLength": 255},
        ),
    ] = None,
) -> str | None:
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    if len(values) > 1:
        raise InvalidInput("Idempotency-Key", "must be given once")
    if not _IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise InvalidInput("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return values[0]


IfMatch = Annotated[frozenset[int] | None, Depends(_if_match)]
"""The row versions a change accepts; None: any. Answers 428 where settings require the header and it isn't there."""

IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]
"""The caller's Idempotency-Key, None where there is none."""
