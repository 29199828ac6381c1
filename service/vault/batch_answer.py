"""A transit batch's answer, read where it lies: the plaintexts go from the receive buffer straight into `Plaintext`.

`json` would make a string of each. Here compiled patterns walk the buffer and only their spans are used: a match
object copies nothing until `group()` is called. First everything is looked at, strictly, and only then is anything
decoded. Vault's own layout (Go's `encoding/json`: keys in this order, no white space) has a pattern for a whole item;
any other JSON is walked value by value, some ten times slower.
"""

import json
import re
from dataclasses import dataclass

from service.errors import CiphertextRejected, KeyVersionRetired
from service.memory.base64_codec import decode_block
from service.memory.plaintext import Plaintext, copy_bytes

Span = tuple[int, int]

MAX_DEPTH = 16
_NONE: Span = (-1, -1)
_PAD = ord("=")

# Vault's own layout.
_OPENING = re.compile(
    rb'\{"request_id":"[0-9a-f-]*+","lease_id":"","renewable":false,"lease_duration":0,"data":\{"batch_results":\['
)
_ITEM = re.compile(
    rb'\{"plaintext":"([A-Za-z0-9+/]*+={0,2}+)"(?:,"error":"([^"\\\x00-\x1f]*+)")?(?:,"reference":"")?\}'
)
_CLOSING = re.compile(rb'\]\}(?:,"(?!data"|errors")[a-z_]++":(?:null|"[^"\\\x00-\x1f]*+"))*+\}[ \t\n\r]*+')

# Any JSON (RFC 8259). Possessive: a value is never tried a second way, so hostile ones cost no more than others.
_SPACE = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*+={0,2}+")
_ESCAPE = re.compile(rb"\\")
_NULL = re.compile(rb"null")
_TOO_OLD = re.compile(rb"too old")


class NotVaults(Exception):
    """This is not how Vault answers. Stays within `vault/`; says nothing of what it was."""


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What there is in an answer to a decryption; nothing is decoded yet."""

    items: list[tuple[Span, Span]] | None
    """Of each item, in order, where its plaintext and its error are, between the quotes. None: there is no batch."""
    told: str
    """What Vault says is wrong, where it refuses the whole request."""


def find_items(body: memoryview) -> BatchAnswer:
    """Looks through an answer. Raises NotVaults for anything but one JSON object whose batch, if any, is of objects."""
    items = _usual_items(body)
    return _any_answer(body) if items is None else BatchAnswer(items, "")


def open_items(body: memoryview, address: int, items: list[tuple[Span, Span]]) -> list[Plaintext | Exception]:
    """Decodes the plaintexts, in the buffer itself (which is of no other use after this), and moves them out.

    `address` is where `body` is. A failed item, whose plaintext is empty or whose error is not, is CiphertextRejected
    or KeyVersionRetired in its place. Raises NotVaults where a plaintext is no base64; what came before is then wiped.
    """
    results: list[Plaintext | Exception] = []
    add, allocate = results.append, Plaintext.allocate
    try:
        for (start, end), error in items:
            if start == end or error[0] != error[1]:
                add(_refusal(body, error))
                continue
            padding = (body[end - 1] == _PAD) + (body[end - 2] == _PAD)
            size = decode_block(address + start, address + start, end - start)
            if size * 4 != (end - start) * 3:
                raise NotVaults
            size -= padding
            plaintext = allocate(size)
            add(plaintext)
            copy_bytes(plaintext.address, address + start, size)
    except BaseException:
        for result in results:
            if isinstance(result, Plaintext):
                result.wipe()
        raise
    return results


def _refusal(body: memoryview, error: Span) -> Exception:
    # Below `min_decryption_version` Vault says "... version is disallowed by policy (too old)".
    return KeyVersionRetired() if _TOO_OLD.search(body, *error) else CiphertextRejected()


def _usual_items(body: memoryview) -> list[tuple[Span, Span]] | None:
    """The items of an answer that is in Vault's own layout from one end to the other; None for any other."""
    opening = _OPENING.match(body)
    if opening is None:
        return None
    items: list[tuple[Span, Span]] = []
    at, item_at = opening.end(), _ITEM.match
    while (item := item_at(body, at)) is not None:
        items.append((item.span(1), item.span(2)))
        at = item.end() + 1
        if _character(body, at - 1) != ",":
            return items if _CLOSING.fullmatch(body, at - 1) else None
    return None


# --- any JSON -------------------------------------------------------------------------------------------------------


def _any_answer(body: memoryview) -> BatchAnswer:
    at = _skip_space(body, 0)
    members, end = _members(body, at, 0)
    if _skip_space(body, end) != len(body):
        raise NotVaults
    told, data, items = _member(body, members, b"errors"), _member(body, members, b"data"), None
    if data is not None and _character(body, data[0]) == "{":
        results = _member(body, _members(body, data[0], 1)[0], b"batch_results")
        if results is not None and _character(body, results[0]) == "[":
            items = [_item(body, each) for each in _elements(body, results[0], 2)[0]]
    return BatchAnswer(items, "" if told is None else _text(body, told))


def _text(body: memoryview, errors: Span) -> str:
    """Vault's `errors`. They hold no plaintext: it is the whole request that was refused."""
    try:
        told = json.loads(bytes(body[slice(*errors)]))
    except ValueError:  # not UTF-8, or a number of more digits than Python reads
        return ""
    return " ".join(str(each) for each in told) if isinstance(told, list) else ""


def _item(body: memoryview, item: Span) -> tuple[Span, Span]:
    members, _end = _members(body, item[0], 3)
    plaintext, error = _member(body, members, b"plaintext"), _member(body, members, b"error")
    if plaintext is None or _NULL.fullmatch(body, *plaintext):
        plaintext = (0, 2)  # as if it were empty
    elif _character(body, plaintext[0]) != '"' or not _BASE64.fullmatch(body, plaintext[0] + 1, plaintext[1] - 1):
        raise NotVaults
    if error is None or _NULL.fullmatch(body, *error):
        return _between_quotes(plaintext), _NONE
    return _between_quotes(plaintext), _between_quotes(error) if _character(body, error[0]) == '"' else error


def _between_quotes(string: Span) -> Span:
    return string[0] + 1, string[1] - 1


def _character(body: memoryview, at: int) -> str:
    # CPython has the strings of one such character once, for everybody.
    return chr(body[at]) if at < len(body) else ""


def _member(body: memoryview, members: list[tuple[Span, Span]], name: bytes) -> Span | None:
    """The value of this name; None where there is none. Raises NotVaults where there are several."""
    found = [value for key, value in members if body[slice(*key)] == name]
    if len(found) > 1:
        raise NotVaults
    return found[0] if found else None


def _members(body: memoryview, at: int, depth: int) -> tuple[list[tuple[Span, Span]], int]:
    """The object that begins here: where each member's name and value are, and where the object ends."""
    at = _expect(body, at, "{")
    members: list[tuple[Span, Span]] = []
    if _character(body, at) == "}":
        return members, at + 1
    while True:
        key = _STRING.match(body, at)
        if key is None or _ESCAPE.search(body, *key.span()):
            raise NotVaults
        start = _expect(body, _skip_space(body, key.end()), ":")
        end = _end_of_value(body, start, depth)
        members.append((_between_quotes(key.span()), (start, end)))
        at = _skip_space(body, end)
        if _character(body, at) == "}":
            return members, at + 1
        at = _expect(body, at, ",")


def _elements(body: memoryview, at: int, depth: int) -> tuple[list[Span], int]:
    """The array that begins here: where each element is, and where the array ends."""
    at = _expect(body, at, "[")
    elements: list[Span] = []
    if _character(body, at) == "]":
        return elements, at + 1
    while True:
        end = _end_of_value(body, at, depth)
        elements.append((at, end))
        at = _skip_space(body, end)
        if _character(body, at) == "]":
            return elements, at + 1
        at = _expect(body, at, ",")


def _end_of_value(body: memoryview, at: int, depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise NotVaults
    first = _character(body, at)
    if first == "{":
        return _members(body, at, depth + 1)[1]
    if first == "[":
        return _elements(body, at, depth + 1)[1]
    value = (_STRING if first == '"' else _SCALAR).match(body, at)
    if value is None:
        raise NotVaults
    return value.end()


def _expect(body: memoryview, at: int, character: str) -> int:
    """Where the next token begins after this character, which has to be here."""
    if _character(body, at) != character:
        raise NotVaults
    return _skip_space(body, at + 1)


def _skip_space(body: memoryview, at: int) -> int:
    found = _SPACE.match(body, at)
    return at if found is None else found.end()
