"""Which of the process-wide protections are in force, found out by trying them and not by looking at variables.

What they are and why: `zero_on_free.c` (or glibc's own tunables) wipes memory that is freed; PYTHONMALLOC=malloc has
CPython's small objects freed that way too; LD_BIND_NOW=1 keeps the dynamic linker from spilling vector registers, which
may hold a secret, onto the stack when a function is called for the first time. `hardening.py` puts them in force.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from service.memory.shim import WIPE_STACK, glibc_version

PERTURB = 0xA5
"""What the tunables leave in freed memory (glibc's manual, "Memory Allocation Tunables": `glibc.malloc.perturb`)."""

_OLDEST_GLIBC = (2, 26)  # the first with tunables
_CHUNKS = 17
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_RTLD_DI_LINKMAP = 2
_DT_PLTGOT, _DT_JMPREL = 3, 23

Mode = Literal["shim", "tunables", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Zeroing:
    """What is in force in this process."""

    mode: Mode
    """What wipes freed memory: `shim` all of it; `tunables` all but up to the last 8 bytes of a chunk; `none`."""
    pymalloc_off: bool
    """CPython's small objects are wiped too when they are freed; False as well where nothing is."""
    bind_now: bool
    """No library that is loaded binds a function at its first call."""
    dumpable: bool
    """A process of the same user may read this one's memory, and a crash may be written to disk."""
    libc: str
    """The C library: `glibc 2.36`, `macOS` or `another`."""
    possible: bool
    """Whether it can be had on this platform: Linux with glibc from 2.26 on."""

    @property
    def complete(self) -> bool:
        """Whether freed memory is wiped, all of it, and nothing is bound lazily."""
        return self.mode != "none" and self.pymalloc_off and self.bind_now

    @property
    def missing(self) -> tuple[str, ...]:
        """What doesn't hold, in words; empty where everything does."""
        said = (
            (self.mode == "none", "freed memory is not wiped"),
            (self.mode == "tunables", "up to the last 8 bytes of a freed chunk are not wiped"),
            (not self.pymalloc_off, "small Python objects are not wiped when they are freed"),
            (not self.bind_now, "the dynamic linker may leave registers' contents on the stack"),
            (self.dumpable, "processes of the same user may read this one's memory"),
        )
        return tuple(words for holds, words in said if holds)

    @property
    def line(self) -> dict[str, Any]:
        """The fields of a log line."""
        return {
            "zeroing": self.mode,
            "pymalloc_off": self.pymalloc_off,
            "bind_now": self.bind_now,
            "dumpable": self.dumpable,
            "libc": self.libc,
            "not_in_force": list(self.missing),
        }


def in_force() -> Zeroing:
    """Tries each protection in this process (some milliseconds).

    Memory is allocated, filled, freed and looked at; the linker's tables are looked at for functions that are still to
    be bound. Where the C library's allocator isn't glibc's, looking at freed memory could end the process, so nothing
    is tried and nothing claimed.
    """
    glibc = glibc_version()
    libc = f"glibc {glibc[0]}.{glibc[1]}" if glibc else "macOS" if sys.platform == "darwin" else "another"
    if glibc is None or glibc < _OLDEST_GLIBC or has_foreign_malloc():
        return Zeroing(
            mode="none",
            pymalloc_off=False,
            # musl has no other way (its wiki, "Functional differences from glibc": lazy bindings).
            bind_now=sys.platform == "linux" and (glibc is None or _binds_now()),
            dumpable=_is_dumpable(),
            libc=libc,
            possible=glibc is not None and glibc >= _OLDEST_GLIBC,
        )
    return Zeroing(
        mode=_freed_memory(_raw_chunks),
        pymalloc_off=_freed_memory(_python_objects) != "none",
        bind_now=_binds_now(),
        dumpable=_is_dumpable(),
        libc=libc,
        possible=True,
    )


def has_foreign_malloc() -> bool:
    """Whether `malloc` is not the C library's: jemalloc or the like is linked or preloaded. (glibc alone.)"""
    glibcs = _address(ctypes.CDLL("libc.so.6").__libc_malloc)
    found = _address(ctypes.CDLL(None).malloc)
    if found == glibcs:
        return False
    # In a program that is not position-independent (Debian's python3) the name stands for the program's own jump to
    # whichever malloc it was linked with: then it is the libraries that tell.
    return not _is_a_jump(found) or any(each != glibcs for each in _mallocs_of_libraries())


def wipe_stack(size: int = 65_536) -> bool:
    """Clears the unused part of this thread's C stack, `size` bytes down from here, at most 256 kB.

    There functions that have returned left their buffers. False where the shim is not preloaded: nothing is done then.
    Does not: reach what is above, in the frames of functions that are still running.
    """
    if _wipe_stack is None:
        return False
    _wipe_stack(size)
    return True


def _find_wipe_stack() -> Callable[[int], None] | None:
    # PyDLL: the interpreter's lock is kept, as giving it up for a microsecond costs more than the call.
    found = getattr(ctypes.PyDLL(None), WIPE_STACK, None)
    if found is not None:
        found.argtypes, found.restype = [ctypes.c_size_t], None
    return found


_wipe_stack = _find_wipe_stack()


class _Place(ctypes.Structure):
    """Dl_info, of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class _Symbol(ctypes.Structure):
    """Elf64_Sym, of elf(5)."""

    _fields_ = (
        ("name", ctypes.c_uint32),
        ("info", ctypes.c_ubyte),
        ("other", ctypes.c_ubyte),
        ("section", ctypes.c_uint16),
        ("value", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    )


def _is_a_jump(address: int | None) -> bool:
    """Whether a function's address is that of a program's jump to it, and the function itself is elsewhere."""
    place, symbol = _Place(), ctypes.POINTER(_Symbol)()
    with_symbol, undefined = 1, 0  # RTLD_DL_SYMENT; SHN_UNDEF
    found = ctypes.CDLL("libc.so.6").dladdr1(
        ctypes.c_void_p(address), ctypes.byref(place), ctypes.byref(symbol), with_symbol
    )
    return bool(found) and bool(symbol) and symbol.contents.section == undefined


def _mallocs_of_libraries() -> Iterator[int | None]:
    """The `malloc` that each loaded library would find in itself, or else in what it was linked with."""
    with open("/proc/self/maps") as maps:
        files = {line.split(maxsplit=5)[-1].rstrip("\n") for line in maps if "/" in line}
    for file in files - {os.readlink("/proc/self/exe")}:
        with suppress(OSError, AttributeError):  # a file of data, or a library that knows no malloc
            yield _address(ctypes.CDLL(file, mode=os.RTLD_NOLOAD | os.RTLD_LAZY).malloc)


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


# --- freed memory ----------------------------------------------------------------------------------------------------

_Regions = list[tuple[int, int]]


def _freed_memory(freed: Callable[[bytes], AbstractContextManager[_Regions]]) -> Mode:
    """What is in memory that held a known pattern when it was freed; `freed` gives the regions to look at.

    The allocator's own words at a chunk's beginning, and whatever was allocated there since, are let pass: that the
    pattern is in none of the regions counts, and what is in one that nobody used again.
    """
    pattern = os.urandom(16)
    with freed(pattern) as regions:
        found = [ctypes.string_at(address, size) for address, size in regions]
    if any(pattern in content for content in found):
        return "none"
    if any(not any(content) for content in found):
        return "shim"
    if any(set(content) == {PERTURB} for content in found):
        return "tunables"
    return "none"


@contextmanager
def _raw_chunks(pattern: bytes) -> Iterator[_Regions]:
    """Chunks of malloc. Every other one stays while they are looked at, so that no page goes back to the kernel."""
    libc = ctypes.PyDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    size = 4096  # more than what is allocated, from its beginning, before it is looked at
    filled = pattern * (size // len(pattern))
    chunks = [libc.malloc(size) for _ in range(_CHUNKS)]
    for chunk in chunks:
        ctypes.memmove(chunk, filled, size)
    for chunk in chunks[1::2]:
        libc.free(chunk)
    yield [(chunk + size // 2, size // 4) for chunk in chunks[1::2]]
    for chunk in chunks[::2]:
        libc.free(chunk)


@contextmanager
def _python_objects(pattern: bytes) -> Iterator[_Regions]:
    """Objects small enough for CPython's own allocator, which would keep their contents."""
    objects: list[bytes | None] = [pattern * 25 for _ in range(_CHUNKS)]
    regions = [(id(each) + 200, 160) for each in objects[1::2]]
    for index in range(1, _CHUNKS, 2):
        objects[index] = None
    yield regions
    objects.clear()  # not before: the others keep the allocator's pages mapped


# --- the linker ----------------------------------------------------------------------------------------------------


class _LinkMap(ctypes.Structure):
    """The public part of `struct link_map`, link.h."""


_LinkMap._fields_ = (
    ("l_addr", ctypes.c_size_t),
    ("l_name", ctypes.c_char_p),
    ("l_ld", ctypes.POINTER(ctypes.c_size_t)),
    ("l_next", ctypes.POINTER(_LinkMap)),
    ("l_prev", ctypes.POINTER(_LinkMap)),
)


def _binds_now() -> bool:
    """Whether no loaded object is bound lazily.

    For one that is, the linker puts the address of its own link_map into the second word of the object's PLT table
    (the psABIs of x86-64 and AArch64; glibc's `elf_machine_runtime_setup`). On other machines: whether LD_BIND_NOW was
    set when the process began.
    """
    if platform.machine() not in ("x86_64", "aarch64"):
        return bool(os.environ.get("LD_BIND_NOW"))
    loader = ctypes.CDLL(None)
    link = ctypes.POINTER(_LinkMap)()
    if loader.dlinfo(ctypes.c_void_p(loader._handle), _RTLD_DI_LINKMAP, ctypes.byref(link)) != 0:
        return False
    while link:
        each = link.contents
        tags: dict[int, int] = {}
        index = 0
        while tag := each.l_ld[index]:
            tags[tag] = each.l_ld[index + 1]
            index += 2
        if _DT_JMPREL in tags and _DT_PLTGOT in tags:
            table = tags[_DT_PLTGOT]
            if table < each.l_addr:  # a section the linker could not write to holds offsets
                table += each.l_addr
            if ctypes.c_size_t.from_address(table + ctypes.sizeof(ctypes.c_size_t)).value == ctypes.addressof(each):
                return False
        link = each.l_next
    return True


def set_dumpable(allowed: bool) -> None:
    """Linux: whether processes of the same user may attach to this one and read its memory, and whether it may dump
    core (prctl(2), PR_SET_DUMPABLE). Root may all the same. Lasts until exec. Elsewhere nothing is done.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, int(allowed), 0, 0, 0)


def _is_dumpable() -> bool:
    if sys.platform != "linux":
        return True
    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))
