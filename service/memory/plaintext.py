"""Secret bytes in memory that is ours to wipe.

`Plaintext` holds a slot of `secret_pages` and shows stars. `reveal()` is the one way to the bytes, and the one name to
grep for.
"""

import ctypes
from typing import NoReturn, Self

from service.memory import secret_pages
from service.memory.secret_pages import Slot

MASK = "**********"

_take = secret_pages.take
_zeros = memoryview(bytes(secret_pages.SIZE_CLASSES[-1]))

utf8_address = ctypes.pythonapi.PyUnicode_AsUTF8AndSize
"""Where an ASCII string's own characters are: `utf8_address(text, None)`.

Only for ASCII is it the string's own data, and not a cached copy
(https://docs.python.org/3/c-api/unicode.html#c.PyUnicode_AsUTF8AndSize).
"""
utf8_address.argtypes = [ctypes.py_object, ctypes.c_void_p]
utf8_address.restype = ctypes.c_void_p

# Of pythonapi, as `ctypes.memmove` lets go of the GIL, which costs more than a small copy does.
copy_bytes = ctypes.pythonapi.memmove
"""`copy_bytes(to_address, from_address, size)`."""
copy_bytes.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
copy_bytes.restype = None


def wipe(buffer: bytearray) -> None:
    """Overwrites a buffer with zeros, in place; its length stays, so no view of it breaks."""
    if buffer:
        ctypes.memset((ctypes.c_char * len(buffer)).from_buffer(buffer), 0, len(buffer))


class Plaintext:
    """Secret bytes; wiped by `wipe()`, at the end of a `with`, or when nobody holds the object any longer.

    Guarantees: `repr`, `str`, `format`, logs and tracebacks with locals show stars; it can't be pickled, copied or
    made into JSON; it never moves; after `wipe()` its memory reads as zeros through every view that was kept, and is
    nobody else's while one lives. Does not: follow copies made from what `reveal()` returned, nor keep up with whoever
    goes on writing to `address` after `wipe()`.
    """

    __slots__ = ("_held", "_size")

    _held: list[Slot]  # emptied by whoever wipes it first: list.pop() is atomic, so no slot is given back twice
    _size: int

    def __init__(self, buffer: bytearray) -> None:
        """Takes the buffer over: its bytes are moved to pages of our own, and it is wiped at once."""
        try:
            self._size = len(buffer)
            self._held = [_take(self._size)]
            self.reveal()[:] = buffer
        finally:
            wipe(buffer)

    @classmethod
    def allocate(cls, size: int) -> Self:
        """Room for `size` bytes, zero-filled, to be written through `reveal()` or `address`.

        Raises:
            MemoryError: too many secrets are held at once.
        """
        self = cls.__new__(cls)
        self._size = size
        self._held = [_take(size)]
        return self

    @classmethod
    def copy_of(cls, value: str) -> Self:
        """From a string that somebody else holds (a request's `SecretStr`, a caller's argument), which stays theirs.

        Raises:
            MemoryError: too many secrets are held at once.
        """
        if not value.isascii():
            # No key has such characters. It goes by way of the encoder's own buffers, to be refused by what it is.
            return cls(bytearray(value, "utf-8", "surrogatepass"))
        size = len(value)
        try:
            self = cls.allocate(size)
        except MemoryError:
            del value  # a traceback may show locals
            raise
        copy_bytes(self._held[0].address, utf8_address(value, None), size)
        return self

    def reveal(self) -> memoryview:
        """The bytes themselves, not a copy: a new writable view. Once this object is wiped: zeros, read-only."""
        try:
            return self._held[0].view(self._size)
        except IndexError:
            return _zeros[: self._size] if self._size <= len(_zeros) else memoryview(bytes(self._size))

    @property
    def address(self) -> int:
        """Where the bytes are, for ctypes: good until `wipe()`. Raises ValueError after it."""
        try:
            return self._held[0].address
        except IndexError:
            raise ValueError("this plaintext has been wiped") from None

    def wipe(self) -> None:
        """Overwrites the bytes with zeros and gives the memory back. Wiping twice is fine."""
        try:
            slot = self._held.pop()
        except IndexError:
            return
        slot.give_back()

    def __del__(self) -> None:
        # What was forgotten. A constructor that failed leaves no slot, or not even the attribute.
        if held := getattr(self, "_held", None):
            held.pop().give_back()

    def __len__(self) -> int:
        return self._size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"Plaintext({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, _spec: str) -> str:
        return MASK

    def __reduce__(self) -> NoReturn:
        raise TypeError("Plaintext can't be pickled or copied")

    def __copy__(self) -> NoReturn:
        raise TypeError("Plaintext can't be copied")

    def __deepcopy__(self, _memo: object) -> NoReturn:
        raise TypeError("Plaintext can't be copied")

    __hash__ = None  # type: ignore[assignment]  # equality by content would be a timing oracle, and nobody needs it
