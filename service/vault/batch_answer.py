"""A transit batch's answer, read where it lies: the plaintexts go from the receive buffer straight into `Plaintext`.

`json` would make a string of each. Here compiled patterns walk the buffer and only their spans are used: a match
object copies nothing until `group()` is called. First everything is looked at, strictly, and only then is anything
decoded. Vault's own layout (Go's `encoding/json`: keys in this order, no white space) has a pattern for a whole item;
any other JSON is walked value by value, some ten times slower.
"""

import re
from dataclasses import dataclass

from service.errors import CiphertextRejected, KeyVersionRetired
from service.memory.base64_codec import decode_block
from service.memory.plaintext import Plaintext, copy_bytes
from service.vault.json_spans import (
    NotVaults,
    Span,
    between_quotes,
    character,
    elements_of,
    member,
    members_of,
    members_of_whole,
    told_at,
)

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

_BASE64 = re.compile(rb"[A-Za-z0-9+/]*+={0,2}+")
_NULL = re.compile(rb"null")
_TOO_OLD = re.compile(rb"too old")


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
        if character(body, at - 1) != ",":
            return items if _CLOSING.fullmatch(body, at - 1) else None
    return None


# --- any JSON -------------------------------------------------------------------------------------------------------


def _any_answer(body: memoryview) -> BatchAnswer:
    members = members_of_whole(body)
    told, data, items = member(body, members, b"errors"), member(body, members, b"data"), None
    if data is not None and character(body, data[0]) == "{":
        results = member(body, members_of(body, data[0], 1)[0], b"batch_results")
        if results is not None and character(body, results[0]) == "[":
            items = [_item(body, each) for each in elements_of(body, results[0], 2)[0]]
    return BatchAnswer(items, "" if told is None else told_at(body, told))


def _item(body: memoryview, item: Span) -> tuple[Span, Span]:
    members, _end = members_of(body, item[0], 3)
    plaintext, error = member(body, members, b"plaintext"), member(body, members, b"error")
    if plaintext is None or _NULL.fullmatch(body, *plaintext):
        plaintext = (0, 2)  # as if it were empty
    elif character(body, plaintext[0]) != '"' or not _BASE64.fullmatch(body, plaintext[0] + 1, plaintext[1] - 1):
        raise NotVaults
    if error is None or _NULL.fullmatch(body, *error):
        return between_quotes(plaintext), _NONE
    return between_quotes(plaintext), between_quotes(error) if character(body, error[0]) == '"' else error
