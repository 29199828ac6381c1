"""The pair of keys as one secret: what is acceptable as a key, how two become one plaintext and two again."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import CiphertextRejected, InvalidInput
from service.memory.plaintext import Plaintext
from service.memory.revealed import RevealedSecret, reveal_at, wipe_revealed

MAX_KEY_LENGTH = 512
_SEPARATOR = 0x0A

# One pass in C over the plaintext's own memory. A match object shows what it matched in its `repr`, so none is ever a
# local of a frame that can be stopped or can raise.
_PAIR = re.compile(rb"([\x20-\x7e]+)\n[\x20-\x7e]*")
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")


def copied(field: str, value: object) -> Plaintext:
    """A caller's key in memory that is ours to wipe. Raises InvalidInput where it is no string."""
    if not isinstance(value, str):
        del value  # bytes may be a key all the same, and a traceback may show locals
        raise InvalidInput(field, "must be text")
    try:
        return Plaintext.copy_of(value)
    finally:
        del value


def check_key(field: str, key: Plaintext, *, may_be_empty: bool = False) -> None:
    """Refuses what no provider's key is: printable ASCII, 1 to 512 characters, no space at either end.

    Raises:
        InvalidInput: names the field, never the value.
    """
    size = len(key)
    if not size:
        if may_be_empty:
            return
        raise InvalidInput(field, "must not be empty")
    if size > MAX_KEY_LENGTH:
        raise InvalidInput(field, f"must have at most {MAX_KEY_LENGTH} characters")
    with key.reveal() as value:
        is_printable = is_printable_ascii(value)
        is_spaced = 0x20 in (value[0], value[-1])
    if not is_printable:
        raise InvalidInput(field, "must be printable ASCII")
    if is_spaced:
        raise InvalidInput(field, "must not begin or end with a space")


def is_printable_ascii(view: memoryview) -> bool:
    """Whether all its bytes are from space to `~`."""
    return _PRINTABLE.fullmatch(view) is not None


def join_pair(api_key: Plaintext, secret_key: Plaintext) -> Plaintext:
    """One plaintext for both, a newline between: neither holds one, so this is unambiguous and costs one decryption."""
    joined = Plaintext.allocate(len(api_key) + 1 + len(secret_key))
    with joined.reveal() as view, api_key.reveal() as api, secret_key.reveal() as secret:
        view[: len(api)] = api
        view[len(api)] = _SEPARATOR
        view[len(api) + 1 :] = secret
    return joined


@contextmanager
def split_pair(pair: Plaintext) -> Iterator[tuple[memoryview, memoryview]]:
    """Views of the two keys, without a copy. They are of `pair`'s memory and end with the block.

    Raises:
        CiphertextRejected: what was decrypted is not a pair.
    """
    with pair.reveal() as view:
        at = _separator(view)
        with view[:at] as api_key, view[at + 1 :] as secret_key:
            yield api_key, secret_key


def reveal_pair(pair: Plaintext) -> tuple[RevealedSecret, RevealedSecret]:
    """The two keys as strings, which the caller wipes with `wipe_pair`; `pair` stays the caller's to wipe, too.

    No other copy of them is made.

    Raises:
        CiphertextRejected: what was decrypted is not a pair. No string has been made of it.
    """
    with pair.reveal() as view:
        at = _separator(view)
    address = pair.address
    api_key = reveal_at(address, at)
    try:
        return api_key, reveal_at(address + at + 1, len(pair) - at - 1)
    except BaseException:
        wipe_revealed(api_key)
        raise


def wipe_pair(keys: tuple[RevealedSecret, RevealedSecret]) -> None:
    """Overwrites what `reveal_pair` made with NULs, for every holder of a reference. Wiping twice is fine."""
    api_key, secret_key = keys
    wipe_revealed(api_key)
    wipe_revealed(secret_key)


def copy_view(view: memoryview) -> Plaintext:
    """One of the two keys as a plaintext of its own, which the caller wipes."""
    copy = Plaintext.allocate(len(view))
    with copy.reveal() as room:
        room[:] = view
    return copy


def _separator(view: memoryview) -> int:
    """Where the newline between the two keys is."""
    try:
        return _PAIR.fullmatch(view).end(1)  # type: ignore[union-attr]  # None is what AttributeError is caught for
    except AttributeError:
        raise CiphertextRejected from None
