"""Secret bytes in memory that is ours to wipe.

`Plaintext` holds a bytearray and shows stars. `reveal()` is the one way to the bytes, and the one name to grep for.
"""

import ctypes
from typing import NoReturn, Self

MASK = "**********"


def wipe(buffer: bytearray) -> None:
    """Overwrites a buffer with zeros, in place; its length stays, so no view of it breaks."""
    if buffer:
        ctypes.memset((ctypes.c_char * len(buffer)).from_buffer(buffer), 0, len(buffer))


class Plaintext:
    """Secret bytes; wiped by `wipe()` or at the end of a `with`.

    Guarantees: `repr`, `str`, `format`, logs and tracebacks with locals show stars; it can't be pickled, copied or
    made into JSON; after `wipe()` the memory it held reads as zeros. Does not: follow copies made from what `reveal()`
    returned.
    """

    __slots__ = ("_buffer",)

    def __init__(self, buffer: bytearray) -> None:
        """Takes the buffer over: it is wiped with this object."""
        self._buffer = buffer

    @classmethod
    def copy_of(cls, value: str) -> Self:
        """From a string that somebody else holds (a request's `SecretStr`, a caller's argument), which stays theirs."""
        return cls(bytearray(value, "utf-8", "surrogatepass"))

    def reveal(self) -> bytearray:
        """The bytes themselves, not a copy. They read as zeros once this object is wiped."""
        return self._buffer

    def wipe(self) -> None:
        """Overwrites the bytes with zeros. Wiping twice is fine."""
        wipe(self._buffer)

    def __len__(self) -> int:
        return len(self._buffer)

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
