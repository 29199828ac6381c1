"""Validation errors in our own words: pydantic's messages can quote what they are about, so none is passed on."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

_PROBLEMS = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "must be text that UTF-8 can hold",
    "string_too_short": "is too short: it must have at least {min_length} characters",
    "string_too_long": "is too long: it may have {max_length} characters",
    "string_pattern_mismatch": "has characters that are not allowed",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
    "enum": "must be one of: {expected}",
    "literal_error": "must be one of: {expected}",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
}
_UNKNOWN = {"body": "has an unknown field", "query": "has an unknown parameter"}


def problems_of(found: Iterable[Mapping[str, Any]], *, whole: str = "body") -> list[tuple[str, str]]:
    """Field and problem of each of FastAPI's validation errors, at most 20.

    Locations begin with where the value was (`body`, `query`, …). A field's name is told only if the schema has it: an
    unknown field's is the caller's text, and might be a secret put in the wrong place.
    """
    problems: dict[tuple[str, str], None] = {}
    for item in found:
        kind = item["type"]
        place, *names = (str(part) for part in item["loc"]) if item["loc"] else (whole,)
        if kind == "extra_forbidden":
            problems[place, _UNKNOWN.get(place, "has an unknown field")] = None
        elif kind == "own":
            # Only query_parameters' validators make these, with fixed text.
            problems[names[0] if names else place, item["msg"]] = None
        else:
            problems[names[0] if names else place, _told(kind, item)] = None
    return list(problems)[:20] or [(whole, "is not valid")]


def _told(kind: str, item: Mapping[str, Any]) -> str:
    """What is wrong. The context of errors with a bound in their text is the schema's, and nothing of the value."""
    text = _PROBLEMS.get(kind, "is not valid")
    return text.format_map(item["ctx"]) if "{" in text else text


def body_problems(error: ValidationError) -> list[tuple[str, str]]:
    """The same of pydantic's own error on a body."""
    found = error.errors(include_url=False, include_input=False)
    return problems_of({**item, "loc": ("body", *item["loc"])} for item in found)
