"""Base64 between addresses: no `bytes`, no `str`, no buffer but the caller's own.

Python's `binascii` passes what it makes through a buffer of its own, on the C stack where it is small, and nobody
wipes that. OpenSSL's `EVP_DecodeBlock` and `EVP_EncodeBlock`
(https://docs.openssl.org/3.0/man3/EVP_EncodeInit/) work on four characters at a time, from and to any address. They
are taken from the library that `_ssl` is linked to. A Python that has OpenSSL built in shows no such function: then
from the system's libcrypto, and where there is none, from a loop here, some twenty times slower, whose every value is
one of CPython's shared small integers, so that nothing of it is left in freed memory either. `IN_USE` says which.
"""

import ctypes
import ctypes.util
from collections.abc import Callable

_Block = Callable[[int, int, int], int]
"""`block(to_address, from_address, size)` as in OpenSSL; returns how much it wrote, or -1."""

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PAD = 0x3D
_VALUES: dict[int, int] = {character: value for value, character in enumerate(_ALPHABET)} | {_PAD: 0}


def encoded_size(size: int) -> int:
    """How many characters `size` bytes become, padding included."""
    return (size + 2) // 3 * 4


def slow_decode(to: int, source: int, size: int) -> int:
    """`EVP_DecodeBlock` in Python, but that it takes no white space; `to` may be `source`."""
    if size % 4:
        return -1
    read = (ctypes.c_ubyte * size).from_address(source)
    write = (ctypes.c_ubyte * (size // 4 * 3)).from_address(to)
    value_of = _VALUES.get
    for start in range(0, size, 4):
        # Each in its own variable and none above 255: CPython has those integers once, for everybody.
        a, b = value_of(read[start]), value_of(read[start + 1])
        c, d = value_of(read[start + 2]), value_of(read[start + 3])
        if a is None or b is None or c is None or d is None:
            return -1
        at = start // 4 * 3
        write[at] = (a << 2) | (b >> 4)
        write[at + 1] = ((b & 15) << 4) | (c >> 2)
        write[at + 2] = ((c & 3) << 6) | d
    return size // 4 * 3


def slow_encode(to: int, source: int, size: int) -> int:
    """`EVP_EncodeBlock` in Python, without the NUL that it adds."""
    length = encoded_size(size)
    read = (ctypes.c_ubyte * size).from_address(source)
    write = (ctypes.c_ubyte * length).from_address(to)
    at = 0
    for start in range(0, size, 3):
        a = read[start]
        b = read[start + 1] if start + 1 < size else None
        c = read[start + 2] if start + 2 < size else None
        write[at] = _ALPHABET[a >> 2]
        write[at + 1] = _ALPHABET[((a & 3) << 4) | ((b or 0) >> 4)]
        write[at + 2] = _PAD if b is None else _ALPHABET[((b & 15) << 2) | ((c or 0) >> 6)]
        write[at + 3] = _PAD if c is None else _ALPHABET[c & 63]
        at += 4
    return length


def _of_library(path: str) -> tuple[_Block, _Block] | None:
    try:
        # PyDLL: letting go of the GIL would cost more than the call. What `path` itself lacks, its libraries may have.
        library = ctypes.PyDLL(path)
        decode, encode = library.EVP_DecodeBlock, library.EVP_EncodeBlock
    except (OSError, AttributeError):
        return None
    for function in (decode, encode):
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
        function.restype = ctypes.c_int
    return decode, encode


def _find() -> tuple[_Block, _Block, str]:
    try:
        import _ssl

        linked = getattr(_ssl, "__file__", None)
    except ImportError:
        linked = None
    if linked and (found := _of_library(linked)):
        return *found, "OpenSSL, as Python's ssl uses it"
    system = ctypes.util.find_library("crypto")
    if system and (found := _of_library(system)):
        return *found, "OpenSSL, the system's"
    return slow_decode, slow_encode, "Python"


decode_block, encode_block, IN_USE = _find()
"""`decode_block(to_address, from_address, size)` takes whole groups of four characters and returns how many bytes it
wrote, three for each group (zeros for the padding), or -1; `to` may be `from`. It skips white space at the ends: who
wants to be strict looks first. `encode_block` likewise; it may write a NUL after the last character. Neither checks
that there is room. `IN_USE`: whose they are, in words.
"""
