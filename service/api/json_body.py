"""Request bodies, strictly: bounded, UTF-8, JSON without ambiguity, then the schema. No error holds any of it.

Nor does a frame that can raise or wait hold it as a local: reports of errors show frames with their locals. What has
to have it plain (a part as the server gave it, the text for the JSON parser) is in a function that only returns.

Not FastAPI's own body parameters: those read without a bound, take the last of duplicate keys, and put what was sent
into the error. Sources: RFC 8259 (JSON), RFC 7493 (I-JSON), RFC 9110, 8.3 (Content-Type).
"""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Generic, NoReturn, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.api.runtime import ApiRuntime
from service.api.secret_fields import StoreFields, UpdateFields, ValidateFields
from service.api.validation_problems import body_problems
from service.errors import BodyTooLarge, BodyTooSlow, InvalidFields, InvalidInput, WrongContentType
from service.memory.plaintext import Plaintext
from service.schemas.credential_schemas import (
    StoreCredentialRequest,
    UpdateCredentialRequest,
    ValidateCredentialRequest,
)
from service.schemas.handoff_schemas import HandOffFailureRequest, HandOffRequest
from service.schemas.key_schemas import RetireRequest
from service.schemas.suspension_schemas import SuspendRequest

Schema = TypeVar("Schema", bound=BaseModel)
Taken = TypeVar("Taken")

BODY_SECONDS = 30.0
"""How long a body may take from when it is waited for. The longest that is taken is 16 kB, but for other settings."""

_JSON = re.compile(r'application/json[ \t]*(;[ \t]*charset=("utf-8"|utf-8)[ \t]*)?;?', re.IGNORECASE)

# NUL, which Postgres text can't hold, and lone surrogates, which UTF-8 can't: JSON's escapes can write both.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class JsonBody(Generic[Schema, Taken]):
    """A dependency that reads the request's body as one schema, and gives the route what `take` makes of it.

    Raises:
        BodyTooLarge: more than `settings.max_body_bytes`, whether or not Content-Length said so.
        BodyTooSlow: it isn't there after BODY_SECONDS.
        WrongContentType: not application/json, another charset, or compressed.
        InvalidInput: field `body` where it can't be read as one JSON object, else the fields of the schema.
    """

    def __init__(self, schema: type[Schema], take: Callable[[Schema], Taken]) -> None:
        self._schema = schema
        self._take = take

    async def __call__(self, request: Request, runtime: ApiRuntime) -> Taken:
        _check_content_type(request)
        with await _read(request, runtime.settings.max_body_bytes) as raw:
            members = _parse(raw)
        return self._take(validated(self._schema, members))


class OptionalJsonBody(JsonBody[Schema, Taken]):
    """As `JsonBody`; a request without a body (RFC 9110, 6.4.1) is taken for one with `{}`."""

    async def __call__(self, request: Request, runtime: ApiRuntime) -> Taken:
        headers = request.headers
        # Whatever its Content-Type says: some clients send one with each POST.
        told = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        return await super().__call__(request, runtime) if told else self._take(self._schema())


class Members:
    """A JSON object's members. Shows none of them, whoever asks."""

    __slots__ = ("_found",)

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def can_be_stored(self, name: str) -> bool:
        """Whether this member is no text, or one that Postgres and UTF-8 can hold."""
        value = self._found.get(name)
        return not isinstance(value, str) or _NO_TEXT.search(value) is None

    def reveal(self) -> dict[str, Any]:
        """The members themselves."""
        return self._found

    def __reduce__(self) -> NoReturn:
        raise TypeError("a body can't be pickled or copied")


def validated(schema: type[Schema], members: Members) -> Schema:
    """The parsed object as the schema; nothing is converted. Raises InvalidFields."""
    for name in schema.model_fields:
        if not members.can_be_stored(name):
            raise InvalidInput(name, "must not contain NUL or half a surrogate pair")
    try:
        return schema.model_validate(members.reveal(), strict=True)
    except ValidationError as error:
        problems = body_problems(error)
    # Raised out here: pydantic's error holds the input, and would be chained.
    raise InvalidFields(problems)


def body_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """A route's `openapi_extra` for this body. `openapi_document` puts the schema in place."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


async def _read(request: Request, limit: int) -> Plaintext:
    """The whole body."""
    declared = request.headers.get("content-length", "")
    size = limit
    if declared.isascii() and declared.isdigit():
        size = int(declared) if len(declared) <= 18 else limit + 1
        if size > limit:
            raise BodyTooLarge
    # Not `request.stream()`, whose frame keeps the last part while it waits for the next.
    with Plaintext.allocate(size) as room:
        used, more = 0, True
        with suppress(TimeoutError):
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    used, more = _kept(await request.receive(), room, used)
                    if used > size:
                        raise BodyTooLarge
                    if used < 0:
                        raise ClientDisconnect
        if more:
            raise BodyTooSlow
        body = Plaintext.allocate(used)
        with body.reveal() as to, room.reveal() as source:
            to[:] = source[:used]
        return body


def _kept(message: Message, room: Plaintext, used: int) -> tuple[int, bool]:
    """Copies a part of the body to the room, where it fits in. Returns how many bytes are used with it, -1 where the
    client has gone, and whether more will come.
    """
    if message["type"] != "http.request":
        return -1, False
    part = message.get("body", b"")
    end = used + len(part)
    if end <= len(room):
        with room.reveal() as view:
            view[used:end] = part
    return end, message.get("more_body", False)


def _check_content_type(request: Request) -> None:
    types = request.headers.getlist("content-type")
    encodings = request.headers.getlist("content-encoding")
    if len(types) != 1 or not _JSON.fullmatch(types[0].strip()) or any(e.lower() != "identity" for e in encodings):
        raise WrongContentType


def _parse(raw: Plaintext) -> Members:
    members, problem = _parsed(raw)
    if members is None:
        raise InvalidInput("body", problem)
    return members


def _parsed(raw: Plaintext) -> tuple[Members | None, str]:
    """The members, or None and what is wrong. Raises nothing: the decoder's and the parser's errors hold the text."""
    with raw.reveal() as view:
        if view[:3].tobytes() == b"\xef\xbb\xbf":
            return None, "must not begin with a byte order mark"
        try:
            # Python's parser takes a str alone; it lives until this function returns.
            parsed = json.loads(str(view, "utf-8"), object_pairs_hook=_object, parse_constant=_constant)
        except UnicodeDecodeError:
            return None, "must be UTF-8"
        except _Ambiguous as error:
            return None, error.problem
        except RecursionError:
            return None, "is nested too deeply"
        except ValueError:  # not JSON, or a number of thousands of digits
            return None, "is not valid JSON"
    return (Members(parsed), "") if isinstance(parsed, dict) else (None, "must be a JSON object")


class _Ambiguous(InvalidInput):
    """JSON that parsers read differently."""


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Ambiguous("body", "has a key more than once")
    return members


def _constant(_name: str) -> NoReturn:
    raise _Ambiguous("body", "has a number that JSON does not have")


StoreBody = Annotated[StoreFields, Depends(JsonBody(StoreCredentialRequest, StoreFields.of))]
UpdateBody = Annotated[UpdateFields, Depends(JsonBody(UpdateCredentialRequest, UpdateFields.of))]
ValidateBody = Annotated[ValidateFields, Depends(JsonBody(ValidateCredentialRequest, ValidateFields.of))]
RetireBody = Annotated[RetireRequest, Depends(JsonBody(RetireRequest, lambda body: body))]
HandOffBody = Annotated[HandOffRequest, Depends(OptionalJsonBody(HandOffRequest, lambda body: body))]
HandOffFailureBody = Annotated[HandOffFailureRequest, Depends(JsonBody(HandOffFailureRequest, lambda body: body))]
SuspendBody = Annotated[SuspendRequest, Depends(OptionalJsonBody(SuspendRequest, lambda body: body))]
