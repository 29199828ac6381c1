"""The pair that the context manager yields: real strings that read as NULs once the block has ended."""

import ctypes
from typing import NoReturn

from service.memory.plaintext import MASK

_utf8_address = ctypes.pythonapi.PyUnicode_AsUTF8AndSize
_utf8_address.argtypes = [ctypes.py_object, ctypes.POINTER(ctypes.c_ssize_t)]
_utf8_address.restype = ctypes.c_void_p


class RevealedSecret(str):
    """A secret as a string, for a client library that wants one.

    Guarantees: `repr` shows stars (so do a traceback with locals, a debugger, the `repr` of a container); it can't be
    pickled or copied; after `wipe_revealed` every reference to it reads as NULs. Does not: mask `str`, `format` or
    `encode` (`f"Bearer {key}"` has to work), nor follow the copies that these make; nor mask itself in JSON, which
    writes any string as it is. (`service.observability.LineFormatter` masks it; other programs' loggers don't.)

    Made from ASCII only: for ASCII, CPython's `PyUnicode_AsUTF8AndSize` gives the address of the string's own data
    and not of a cached copy (https://docs.python.org/3/c-api/unicode.html#c.PyUnicode_AsUTF8AndSize). CPython never
    interns an instance of a `str` subclass, so nobody else's string is ever wiped.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a revealed secret can't be pickled or copied")

    def __copy__(self) -> NoReturn:
        raise TypeError("a revealed secret can't be copied")

    def __deepcopy__(self, _memo: object) -> NoReturn:
        raise TypeError("a revealed secret can't be copied")


def reveal_ascii(view: memoryview) -> RevealedSecret:
    """Makes a string of printable ASCII bytes. Raises ValueError (without the bytes) for anything else."""
    if any(byte >= 0x80 for byte in view):
        raise ValueError("a secret must be ASCII")
    # A subclass's constructor copies out of a plain str: that one is ours alone (not interned), so it is wiped here.
    plain = str(view, "ascii")
    secret = RevealedSecret(plain)
    # An empty or one-character str is shared by the whole interpreter, and must not be touched.
    if len(plain) > 1:
        _wipe_ascii(plain)
    return secret


def wipe_revealed(secret: RevealedSecret) -> None:
    """Overwrites the string's characters with NULs, in place, for every holder of a reference."""
    if type(secret) is not RevealedSecret:
        raise TypeError("only a RevealedSecret is ours to wipe")
    if secret:
        _wipe_ascii(secret)


def _wipe_ascii(text: str) -> None:
    size = ctypes.c_ssize_t()
    address = _utf8_address(text, ctypes.byref(size))
    if address and size.value == len(text):
        ctypes.memset(address, 0, size.value)
