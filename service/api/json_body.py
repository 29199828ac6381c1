"""Request bodies, strictly: bounded, UTF-8, JSON without ambiguity, then the schema. No error holds any of it.

Not FastAPI's own body parameters: those read without a bound, take the last of duplicate keys, and put what was sent
into the error. Sources: RFC 8259 (JSON), RFC 7493 (I-JSON), RFC 9110, 8.3 (Content-Type).
"""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Generic, NoReturn, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from service.api.runtime import ApiRuntime
from service.api.validation_problems import body_problems
from service.errors import BodyTooLarge, InvalidFields, InvalidInput, WrongContentType
from service.memory.plaintext import wipe
from service.schemas.credential_schemas import (
    StoreCredentialRequest,
    UpdateCredentialRequest,
    ValidateCredentialRequest,
)

Schema = TypeVar("Schema", bound=BaseModel)

_JSON = re.compile(r'application/json[ \t]*(;[ \t]*charset=("utf-8"|utf-8)[ \t]*)?;?', re.IGNORECASE)

# NUL, which Postgres text can't hold, and lone surrogates, which UTF-8 can't: JSON's escapes can write both.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class JsonBody(Generic[Schema]):
    """A dependency that reads the request's body as one schema.

    Raises:
        BodyTooLarge: more than `settings.max_body_bytes`, whether or not Content-Length said so.
        WrongContentType: not application/json, another charset, or compressed.
        InvalidInput: field `body` where it can't be read as one JSON object, else the fields of the schema.
    """

    def __init__(self, schema: type[Schema]) -> None:
        self._schema = schema

    async def __call__(self, request: Request, runtime: ApiRuntime) -> Schema:
        _check_content_type(request)
        raw = await _read(request, runtime.settings.max_body_bytes)
        try:
            parsed = _parse(raw)
        finally:
            wipe(raw)
        return validated(self._schema, parsed)


def validated(schema: type[Schema], parsed: dict[str, Any]) -> Schema:
    """The parsed object as the schema; nothing is converted. Raises InvalidFields."""
    for name in schema.model_fields:
        if isinstance(value := parsed.get(name), str) and _NO_TEXT.search(value):
            raise InvalidInput(name, "must not contain NUL or half a surrogate pair")
    try:
        return schema.model_validate(parsed, strict=True)
    except ValidationError as error:
        problems = body_problems(error)
    # Raised out here: pydantic's error holds the input, and would be chained.
    raise InvalidFields(problems)


def body_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """A route's `openapi_extra` for this body. `openapi_document` puts the schema in place."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


async def _read(request: Request, limit: int) -> bytearray:
    """The whole body, in memory that is ours to wipe."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise BodyTooLarge
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            wipe(body)
            raise BodyTooLarge
        body += chunk
    return body


def _check_content_type(request: Request) -> None:
    types = request.headers.getlist("content-type")
    encodings = request.headers.getlist("content-encoding")
    if len(types) != 1 or not _JSON.fullmatch(types[0].strip()) or any(e.lower() != "identity" for e in encodings):
        raise WrongContentType


def _parse(raw: bytearray) -> dict[str, Any]:
    if raw.startswith(b"\xef\xbb\xbf"):
        raise InvalidInput("body", "must not begin with a byte order mark")
    # The problems are raised outside `except`: the decoder's and the parser's errors hold the whole text.
    problem = ""
    parsed: object = None
    try:
        parsed = json.loads(str(raw, "utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        problem = "must be UTF-8"
    except _Ambiguous as error:
        problem = error.problem
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError:  # not JSON, or a number of thousands of digits
        problem = "is not valid JSON"
    if not problem and not isinstance(parsed, dict):
        problem = "must be a JSON object"
    if problem or not isinstance(parsed, dict):
        raise InvalidInput("body", problem)
    return parsed


class _Ambiguous(InvalidInput):
    """JSON that parsers read differently."""


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Ambiguous("body", "has a key more than once")
    return members


def _constant(_name: str) -> NoReturn:
    raise _Ambiguous("body", "has a number that JSON does not have")


StoreBody = Annotated[StoreCredentialRequest, Depends(JsonBody(StoreCredentialRequest))]
UpdateBody = Annotated[UpdateCredentialRequest, Depends(JsonBody(UpdateCredentialRequest))]
ValidateBody = Annotated[ValidateCredentialRequest, Depends(JsonBody(ValidateCredentialRequest))]
