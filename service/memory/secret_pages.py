"""Memory for secrets: anonymous pages of our own, kept out of swap, core dumps and forked children where permitted.

Small secrets get a slot of a size class (`take`, `Slot`), the wire's big buffers a mapping of their own
(`SecretBuffer`). Nothing here ever moves, so an address stays good for as long as its slot or buffer is held.

Three protections, each where the system has it and permits it, none of them needed to run:

- `mlock` (https://man7.org/linux/man-pages/man2/mlock.2.html): never written to swap. `RLIMIT_MEMLOCK` may be as low
  as 64 kB; what is over it stays unlocked, and `locked_bytes()` against `mapped_bytes()` says so. Hibernation and a
  virtual machine's snapshot write locked pages too.
- `MADV_DONTDUMP` (https://man7.org/linux/man-pages/man2/madvise.2.html): not in a core dump. Linux alone.
- `MADV_WIPEONFORK`, and not `MADV_DONTFORK`: a forked child finds zeros where its parent has secrets. Under
  `DONTFORK` it would find nothing mapped, and the first `Plaintext` that its collector wipes would kill it. Where the
  kernel has no such advice, a handler zeroes the pages in the child before any other Python code runs there.
  Locks aren't inherited by a child; the same handler takes them anew.
"""

import contextlib
import ctypes
import mmap
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Self

SIZE_CLASSES = (64, 128, 256, 512, 1088, 4096)
"""Bytes in a slot. 1088 holds the longest pair: two keys of 512 and a newline. What is bigger gets its own mapping."""

MAX_SLOT_BYTES = 64 * 1024 * 1024
"""All slots together. Far above what the bounded queues of opens can hold; a leak of slots ends here, with an error."""

_REGION = max(16 * 1024, mmap.PAGESIZE)
_GRAIN_BITS = 6  # every size class is a multiple of 64 bytes, a cache line
_DONTDUMP: int | None = getattr(mmap, "MADV_DONTDUMP", None)
# CPython's mmap module has no name for it (Linux 4.14, asm-generic/mman-common.h).
_WIPEONFORK: int | None = 18 if sys.platform == "linux" else None


def _libc_function(name: str, *argtypes: type) -> Callable[..., int] | None:
    # pythonapi looks in the whole process, and, unlike CDLL, doesn't let go of the GIL for a call that takes no time.
    function = getattr(ctypes.pythonapi, name, None)
    if function is not None:
        function.argtypes = argtypes
        function.restype = ctypes.c_int
    return function


# As above, of pythonapi; a compiler can't leave out a call that is made through a pointer at run time.
fill = ctypes.pythonapi.memset
"""`fill(address, byte, size)`."""
fill.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
fill.restype = None

_mlock = _libc_function("mlock", ctypes.c_void_p, ctypes.c_size_t)
_munlock = _libc_function("munlock", ctypes.c_void_p, ctypes.c_size_t)


class _Mapping:
    """One anonymous private mapping, at least `size` bytes long, protected as far as it goes."""

    __slots__ = ("__weakref__", "address", "is_locked", "is_wiped_on_fork", "pages", "size")

    def __init__(self, size: int) -> None:
        self.size = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        # Private: the module's default is a shared mapping, which a forked child could read and write.
        self.pages = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        self.is_locked = self._lock()
        self._advise(_DONTDUMP)
        self.is_wiped_on_fork = self._advise(_WIPEONFORK)
        _mappings.add(self)

    def _lock(self) -> bool:
        return _mlock is not None and _mlock(self.address, self.size) == 0

    def _advise(self, advice: int | None) -> bool:
        if advice is None:
            return False
        try:
            self.pages.madvise(advice)
        except (OSError, AttributeError):
            return False
        return True

    def close(self) -> None:
        """Unmaps it, or leaves that to the last view that somebody still holds."""
        _mappings.discard(self)
        if self.is_locked and _munlock is not None:
            # Else the lock would last, uncounted, for as long as a forgotten view.
            _munlock(self.address, self.size)
        self.is_locked = False
        with contextlib.suppress(BufferError):  # a view is out: the mapping goes with it
            self.pages.close()

    def renew_in_child(self) -> None:
        if not self.is_wiped_on_fork:
            fill(self.address, 0, self.size)
        self.is_locked = self._lock()


_mappings: set[_Mapping] = set()


class Slot:
    """A place for one small secret. Zero-filled when it is taken, and again when it is given back.

    `view()` is a new writable view at each call. A slot is used again only when every view of it is gone: one that
    somebody kept reads as zeros for as long as it lives, and never as the next owner's secret.
    """

    __slots__ = ("_all", "_class", "_exporter", "_zeros", "address")

    _exporter: "ctypes.Array[ctypes.c_ubyte]"

    def __init__(self, size_class: "_SizeClass", page_view: memoryview, address: int) -> None:
        self.address = address
        self._class = size_class
        self._all = page_view
        self._zeros = size_class.zeros
        # Every view is made of this object and so holds a reference to it: its reference count tells whether one is
        # left. (A view of the page itself would be counted with all the page's other slots.)
        self._exporter = (ctypes.c_ubyte * len(page_view)).from_address(address)

    def view(self, size: int) -> memoryview:
        """The first `size` bytes."""
        return memoryview(self._exporter).cast("B")[:size]

    def is_viewed(self) -> bool:
        """Whether a view of it is still alive, somewhere."""
        return self.references() > _UNVIEWED

    def references(self) -> int:
        """What `is_viewed` and `give_back` count."""
        return sys.getrefcount(self._exporter)

    def wipe(self) -> None:
        """Zeroes all of it, whatever its owner used of it."""
        self._all[:] = self._zeros

    def give_back(self) -> None:
        """Wipes it and lets the next owner have it. Once for each `take`: giving back twice would make two owners.

        Takes no lock: it may run in a finaliser, in the middle of anything else.
        """
        self._all[:] = self._zeros
        if sys.getrefcount(self._exporter) > _UNVIEWED:
            self._class.viewed.append(self)
        else:
            self._class.free.append(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a slot can't be pickled or copied")


class _SizeClass:
    """The slots of one size. Lists' and deques' own operations are atomic; the lock is for growing alone."""

    __slots__ = ("free", "size", "viewed", "zeros")

    def __init__(self, size: int) -> None:
        self.size = size
        self.zeros = bytes(size)
        self.free: list[Slot] = []
        self.viewed: deque[Slot] = deque()

    def take(self) -> Slot:
        """A slot when none is free: one that was viewed and no longer is, else from a new region."""
        with _growing:
            while True:
                try:
                    return self.free.pop()  # another thread may have grown it meanwhile
                except IndexError:
                    if not self._reclaim():
                        self._grow()

    def _reclaim(self) -> bool:
        for _ in range(len(self.viewed)):
            slot = self.viewed.popleft()
            if slot.is_viewed():
                self.viewed.append(slot)
            else:
                slot.wipe()  # whoever held the view could write to it
                self.free.append(slot)
        return bool(self.free)

    def _grow(self) -> None:
        if sum(region.size for region in _regions) + _REGION > MAX_SLOT_BYTES:
            raise MemoryError("too many secrets are held at once")
        region = _Mapping(_REGION)
        _regions.append(region)
        whole = memoryview(region.pages)
        starts = range(0, region.size - self.size + 1, self.size)
        self.free += [Slot(self, whole[start : start + self.size], region.address + start) for start in starts]


class _LargeSlot(Slot):
    """A slot of its own mapping, unmapped when given back (or with the last view)."""

    __slots__ = ("_mapping",)

    def __init__(self, size: int) -> None:
        self._mapping = _Mapping(size)
        self.address = self._mapping.address

    def view(self, size: int) -> memoryview:
        return memoryview(self._mapping.pages)[:size]

    def is_viewed(self) -> bool:
        return False

    def wipe(self) -> None:
        fill(self.address, 0, self._mapping.size)

    def give_back(self) -> None:
        self.wipe()
        self._mapping.close()


# Re-entrant: a finaliser or a signal handler may take a slot in the middle of growing.
_growing = threading.RLock()
_regions: list[_Mapping] = []
_classes = tuple(_SizeClass(size) for size in SIZE_CLASSES)
_class_of_grains = tuple(
    next(size_class for size_class in _classes if size_class.size >= grains << _GRAIN_BITS)
    for grains in range((SIZE_CLASSES[-1] >> _GRAIN_BITS) + 1)
)
# The count where there is no view, on this interpreter: measured, of a slot of no bytes.
_UNVIEWED = Slot(_classes[0], memoryview(b""), 0).references()


def take(size: int) -> Slot:
    """A slot of at least `size` bytes, all zero, which is the caller's until it gives it back.

    Raises:
        MemoryError: MAX_SLOT_BYTES are in use.
    """
    if size > SIZE_CLASSES[-1]:
        return _LargeSlot(size)
    size_class = _class_of_grains[(size + 63) >> _GRAIN_BITS]
    try:
        return size_class.free.pop()
    except IndexError:
        return size_class.take()


class SecretBuffer:
    """A big buffer for secrets under way: a mapping of its own, of a fixed size.

    Guarantees: `view` is writable and exactly `size` bytes, zero at first; `address` stays good until `close`. Does
    not: grow, nor wipe itself before `close`.
    """

    __slots__ = ("_mapping", "address", "size", "view")

    def __init__(self, size: int) -> None:
        self._mapping = _Mapping(size)
        self.size = size
        self.address = self._mapping.address
        self.view = memoryview(self._mapping.pages)[:size]

    @property
    def is_locked(self) -> bool:
        """Whether it is kept out of swap."""
        return self._mapping.is_locked

    def wipe(self, used: int | None = None) -> None:
        """Zeroes the first `used` bytes, or all. Once closed, does nothing."""
        if self.address:
            fill(self.address, 0, self.size if used is None else min(used, self.size))

    def close(self) -> None:
        """Wipes it all and unmaps it; a view that somebody kept reads as zeros. Closing twice is fine."""
        if not self.address:
            return
        self.wipe()
        self.address = 0
        with contextlib.suppress(BufferError):  # somebody made a ctypes object of it
            self.view.release()
        self._mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret buffer can't be pickled or copied")

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            self.close()


def mapped_bytes() -> int:
    """All the memory for secrets, used or not."""
    return sum(mapping.size for mapping in list(_mappings))


def locked_bytes() -> int:
    """How much of it is kept out of swap."""
    return sum(mapping.size for mapping in list(_mappings) if mapping.is_locked)


def is_locked() -> bool:
    """Whether all of it is kept out of swap. (More of it may come, and find the limit reached.)"""
    return locked_bytes() == mapped_bytes()


def _renew_in_child() -> None:
    global _growing  # noqa: PLW0603 - another thread may have held the parent's, and isn't here to let go of it
    _growing = threading.RLock()
    for mapping in _mappings:
        mapping.renew_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)
