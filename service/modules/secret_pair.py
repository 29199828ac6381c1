"""The pair of keys as one secret: what is acceptable as a key, how two become one plaintext and two again."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import CiphertextRejected, InvalidInput
from service.memory.plaintext import Plaintext, wipe

MAX_KEY_LENGTH = 512
_SEPARATOR = 0x0A


def copied(field: str, value: object) -> Plaintext:
    """A caller's key in memory that is ours to wipe. Raises InvalidInput where it is no string."""
    if not isinstance(value, str):
        del value  # bytes may be a key all the same, and a traceback may show locals
        raise InvalidInput(field, "must be text")
    return Plaintext.copy_of(value)


def check_key(field: str, key: Plaintext, *, may_be_empty: bool = False) -> None:
    """Refuses what no provider's key is: printable ASCII, 1 to 512 characters, no space at either end.

    Raises:
        InvalidInput: names the field, never the value.
    """
    value = key.reveal()
    if not value:
        if may_be_empty:
            return
        raise InvalidInput(field, "must not be empty")
    if len(value) > MAX_KEY_LENGTH:
        raise InvalidInput(field, f"must have at most {MAX_KEY_LENGTH} characters")
    if any(byte < 0x20 or byte > 0x7E for byte in value):
        raise InvalidInput(field, "must be printable ASCII")
    if value[0] == 0x20 or value[-1] == 0x20:
        raise InvalidInput(field, "must not begin or end with a space")


def join_pair(api_key: Plaintext, secret_key: Plaintext) -> Plaintext:
    """One plaintext for both, a newline between: neither holds one, so this is unambiguous and costs one decryption."""
    api, secret = api_key.reveal(), secret_key.reveal()
    joined = bytearray(len(api) + 1 + len(secret))
    view = memoryview(joined)
    # Assigning through a memoryview copies once; `bytearray += bytearray` may reallocate and leave a copy behind.
    view[: len(api)] = api
    view[len(api)] = _SEPARATOR
    view[len(api) + 1 :] = secret
    view.release()
    return Plaintext(joined)


@contextmanager
def split_pair(pair: Plaintext) -> Iterator[tuple[memoryview, memoryview]]:
    """Views of the two keys, without a copy. They are of `pair`'s memory and end with the block.

    Raises:
        CiphertextRejected: what was decrypted is not a pair.
    """
    whole = pair.reveal()
    at = whole.find(_SEPARATOR)
    if at < 1 or any(byte > 0x7E for byte in whole):
        raise CiphertextRejected
    with memoryview(whole) as view, view[:at] as api_key, view[at + 1 :] as secret_key:
        yield api_key, secret_key


def copy_view(view: memoryview) -> Plaintext:
    """One of the two keys as a plaintext of its own, which the caller wipes."""
    buffer = bytearray(len(view))
    try:
        memoryview(buffer)[:] = view
    except BaseException:
        wipe(buffer)
        raise
    return Plaintext(buffer)
