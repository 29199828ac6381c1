"""What a name of a user, or of a program, may be: one rule for tokens, headers, settings and the library."""

import unicodedata

MAX_NAME_BYTES = 512
# Control, format (which don't show, or reorder what does), private use (which shows as anything), line and paragraph
# separators. Half surrogate pairs (Cs) are refused before.
_REFUSED = frozenset({"Cc", "Cf", "Co", "Zl", "Zp"})


def name_problem(value: object) -> str | None:
    """What is wrong with a name, in fixed text; None if nothing is.

    A good one is text of 1 to 512 bytes of UTF-8, NFC-normalised (Unicode Annex 15), without white space at its ends
    and without characters that don't show. Does not: tell apart letters of different scripts that look alike.
    """
    if not isinstance(value, str) or not value:
        return "must not be empty"
    if value.isascii() and value.isprintable() and len(value) <= MAX_NAME_BYTES and " " not in (value[0], value[-1]):
        return None  # all that follows holds of these, and it is on the way of every open
    try:
        length = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return "must be valid Unicode"
    if length > MAX_NAME_BYTES:
        return f"must have at most {MAX_NAME_BYTES} bytes"
    if any(unicodedata.category(character) in _REFUSED for character in value):
        return "must not contain control characters, or others that do not show"
    if value != value.strip():
        return "must not begin or end with white space"
    if not unicodedata.is_normalized("NFC", value):
        return "must be NFC-normalised Unicode"
    return None
