"""The pair that the context manager yields: real strings that read as NULs once the block has ended."""

import ctypes
from typing import NoReturn, SupportsIndex

from service.memory.plaintext import MASK, copy_bytes, utf8_address
from service.memory.secret_pages import fill


class RevealedSecret(str):
    """A secret as a string, for a client library that wants one.

    Guarantees: `repr` shows stars (so do a traceback with locals, a debugger, the `repr` of a container or of a slice);
    it can't be pickled or copied; after `wipe_revealed` every reference to it reads as NULs. Does not: mask `str`,
    `format` or `encode` (`f"Bearer {key}"` has to work), nor follow the copies that these make; nor mask itself in
    JSON, which writes any string as it is. (`service.observability.LineFormatter` masks it; other programs' loggers
    don't.)

    Made from ASCII only: for ASCII, CPython's `PyUnicode_AsUTF8AndSize` gives the address of the string's own data
    and not of a cached copy (https://docs.python.org/3/c-api/unicode.html#c.PyUnicode_AsUTF8AndSize). CPython never
    interns an instance of a `str` subclass, so nobody else's string is ever written to. Seen to work on CPython 3.11,
    3.12 and 3.13; not on free-threaded builds, where another thread may read what is being written.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'"

    def __getitem__(self, key: SupportsIndex | slice) -> "RevealedSecret":
        # Masked as well: what shortens long texts before it shows them (rich's tracebacks) takes the `repr` of a slice.
        return RevealedSecret(super().__getitem__(key))

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a revealed secret can't be pickled or copied")

    def __copy__(self) -> NoReturn:
        raise TypeError("a revealed secret can't be copied")

    def __deepcopy__(self, _memo: object) -> NoReturn:
        raise TypeError("a revealed secret can't be copied")


# The one-character str "\0" is the whole interpreter's, and a hash that somebody has taken of it would be inherited.
# A copy of a subclass's instance is made anew, without one.
_ONE = RevealedSecret("\0")


def reveal_at(address: int, size: int) -> RevealedSecret:
    """Makes a string of the `size` bytes at `address`. The caller has seen to it that they are ASCII.

    No plain `str` or `bytes` of them is made on the way: the string is made of NULs, and the bytes are copied into it.
    """
    # Its hash hasn't been taken yet, as it would be the NULs' for ever: this is the only reference.
    secret = RevealedSecret("\0" * size if size != 1 else _ONE)
    if size:
        copy_bytes(utf8_address(secret, None), address, size)
    return secret


def reveal_ascii(view: memoryview) -> RevealedSecret:
    """As `reveal_at`, of a view's bytes. Raises ValueError (without the bytes) for what isn't ASCII."""
    if any(byte >= 0x80 for byte in view):
        raise ValueError("a secret must be ASCII")
    size = len(view)
    secret = RevealedSecret("\0" * size if size != 1 else _ONE)
    if size:
        memoryview((ctypes.c_ubyte * size).from_address(utf8_address(secret, None))).cast("B")[:] = view
    return secret


def wipe_revealed(secret: RevealedSecret) -> None:
    """Overwrites the string's characters with NULs, in place, for every holder of a reference."""
    if type(secret) is not RevealedSecret:
        raise TypeError("only a RevealedSecret is ours to wipe")
    if secret:
        fill(utf8_address(secret, None), 0, len(secret))
