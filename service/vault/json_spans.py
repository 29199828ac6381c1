"""Any JSON, walked where it lies: what is found is named by where it is, and nothing is copied on the way.

A match object of `re` copies nothing until `group()` is called. Everything is looked at, strictly (RFC 8259; no name
twice where it is asked for), before anything of it is used.
"""

import json
import re

Span = tuple[int, int]

MAX_DEPTH = 16

# RFC 8259. Possessive: a value is never tried a second way, so hostile ones cost no more than others.
_SPACE = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null")
_ESCAPE = re.compile(rb"\\")


class NotVaults(Exception):
    """This is not how Vault answers. Stays within `vault/`; says nothing of what it was."""


def members_of_whole(body: memoryview) -> list[tuple[Span, Span]]:
    """The members of the one object that the body has to be. Raises NotVaults."""
    at = skip_space(body, 0)
    members, end = members_of(body, at, 0)
    if skip_space(body, end) != len(body):
        raise NotVaults
    return members


def told_at(body: memoryview, errors: Span) -> str:
    """Vault's `errors`, which are here. They hold no plaintext: it is the whole request that was refused."""
    try:
        told = json.loads(bytes(body[slice(*errors)]))
    except ValueError:  # not UTF-8, or a number of more digits than Python reads
        return ""
    return " ".join(str(each) for each in told) if isinstance(told, list) else ""


def between_quotes(string: Span) -> Span:
    """A string's own characters, escapes as they are written."""
    return string[0] + 1, string[1] - 1


def character(body: memoryview, at: int) -> str:
    """What is here; empty beyond the end."""
    # CPython has the strings of one such character once, for everybody.
    return chr(body[at]) if at < len(body) else ""


def member(body: memoryview, members: list[tuple[Span, Span]], name: bytes) -> Span | None:
    """The value of this name; None where there is none. Raises NotVaults where there are several."""
    found = [value for key, value in members if body[slice(*key)] == name]
    if len(found) > 1:
        raise NotVaults
    return found[0] if found else None


def members_of(body: memoryview, at: int, depth: int) -> tuple[list[tuple[Span, Span]], int]:
    """The object that begins here: where each member's name and value are, and where the object ends."""
    at = _expect(body, at, "{")
    members: list[tuple[Span, Span]] = []
    if character(body, at) == "}":
        return members, at + 1
    while True:
        key = _STRING.match(body, at)
        if key is None or _ESCAPE.search(body, *key.span()):
            raise NotVaults
        start = _expect(body, skip_space(body, key.end()), ":")
        end = _end_of_value(body, start, depth)
        members.append((between_quotes(key.span()), (start, end)))
        at = skip_space(body, end)
        if character(body, at) == "}":
            return members, at + 1
        at = _expect(body, at, ",")


def elements_of(body: memoryview, at: int, depth: int) -> tuple[list[Span], int]:
    """The array that begins here: where each element is, and where the array ends."""
    at = _expect(body, at, "[")
    elements: list[Span] = []
    if character(body, at) == "]":
        return elements, at + 1
    while True:
        end = _end_of_value(body, at, depth)
        elements.append((at, end))
        at = skip_space(body, end)
        if character(body, at) == "]":
            return elements, at + 1
        at = _expect(body, at, ",")


def _end_of_value(body: memoryview, at: int, depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise NotVaults
    first = character(body, at)
    if first == "{":
        return members_of(body, at, depth + 1)[1]
    if first == "[":
        return elements_of(body, at, depth + 1)[1]
    value = (_STRING if first == '"' else _SCALAR).match(body, at)
    if value is None:
        raise NotVaults
    return value.end()


def _expect(body: memoryview, at: int, wanted: str) -> int:
    """Where the next token begins after this character, which has to be here."""
    if character(body, at) != wanted:
        raise NotVaults
    return skip_space(body, at + 1)


def skip_space(body: memoryview, at: int) -> int:
    """Where the next token begins."""
    found = _SPACE.match(body, at)
    return at if found is None else found.end()
