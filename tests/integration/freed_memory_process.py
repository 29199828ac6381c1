"""Run by test_zeroing_processes.py in a process of its own: looks at memory that has been freed, in every way there is.

Every check prints its name; a Python that finds a pattern where there should be none ends with an AssertionError.
"""

import binascii
import ctypes
import errno
import os
import sys
import threading
from pathlib import Path

from service.memory.zeroing import wipe_stack

libc = ctypes.PyDLL(None, use_errno=True)
for name in ("malloc", "realloc", "calloc", "reallocarray", "aligned_alloc"):
    getattr(libc, name).restype = ctypes.c_void_p
for name in ("free", "realloc", "malloc_usable_size", "reallocarray"):
    getattr(libc, name).argtypes = {
        "realloc": [ctypes.c_void_p, ctypes.c_size_t],
        "reallocarray": [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t],
    }.get(name, [ctypes.c_void_p])
libc.malloc.argtypes = [ctypes.c_size_t]
libc.malloc_usable_size.restype = ctypes.c_size_t

PATTERN = bytes(range(1, 65))
PIECES = [PATTERN[start : start + 8] for start in range(0, 64, 8)]


def filled(address: int, size: int) -> int:
    ctypes.memmove(address, PATTERN * (size // 64 + 1), size)
    return address


def clean(address: int, size: int) -> bool:
    content = ctypes.string_at(address, size)
    return not any(piece in content for piece in PIECES)


def freed() -> None:
    for size in (*range(8, 600, 8), 1024, 1040, 2000, 4096, 16_000, 65_000, 130_000):
        chunk, _keeps_it_mapped = libc.malloc(size), libc.malloc(size)
        whole = libc.malloc_usable_size(chunk)
        filled(chunk, whole)
        libc.free(chunk)
        assert clean(chunk, whole), size


def grown() -> None:
    for size in (24, 100, 1000, 5000, 14_000):  # nine times the largest is still no mapping of its own
        chunk, _keeps_it_there = filled(libc.malloc(size), size), libc.malloc(64)
        moved = libc.realloc(chunk, size * 3)
        assert moved != chunk
        assert ctypes.string_at(moved, size) == (PATTERN * (size // 64 + 1))[:size]
        assert clean(chunk, size), size
        again = libc.reallocarray(moved, size, 9)
        assert ctypes.string_at(again, size) == (PATTERN * (size // 64 + 1))[:size]
        assert clean(moved, size), size


def shrunk() -> None:
    for size, smaller in ((1000, 600), (1000, 64), (60_000, 64), (5000, 4900)):
        chunk, _keeps_it_there = filled(libc.malloc(size), size), libc.malloc(64)
        left = libc.realloc(chunk, smaller)
        assert ctypes.string_at(left, smaller) == (PATTERN * (size // 64 + 1))[:smaller]
        if left == chunk:
            assert clean(chunk + smaller, size - smaller), (size, smaller)
        else:
            assert clean(chunk, size), (size, smaller)


def edges() -> None:
    assert libc.realloc(None, 100)
    assert libc.realloc(libc.malloc(100), 0) is None
    libc.free(None)
    kept = filled(libc.malloc(100), 100)
    ctypes.set_errno(0)
    assert libc.realloc(kept, 1 << 62) is None
    assert ctypes.get_errno() == errno.ENOMEM
    assert ctypes.string_at(kept, 64) == PATTERN
    ctypes.set_errno(errno.EILSEQ)
    libc.free(kept)
    assert ctypes.get_errno() == errno.EILSEQ
    large = libc.malloc(64 * 1024 * 1024)  # a mapping of its own, which is gone afterwards
    libc.free(filled(large, 1024))


def aligned() -> None:
    for alignment in (16, 64, 4096):
        place = ctypes.c_void_p()
        assert libc.posix_memalign(ctypes.byref(place), ctypes.c_size_t(alignment), ctypes.c_size_t(500)) == 0
        other = libc.aligned_alloc(ctypes.c_size_t(alignment), ctypes.c_size_t(alignment * 8))
        for address in (place.value, other):
            assert address is not None
            assert address % alignment == 0
            _keeps_it_mapped = libc.malloc(500)
            libc.free(filled(address, 120))
            assert clean(address, 120)


def threads() -> None:
    def work() -> None:
        for _ in range(300):
            objects = [bytearray(size) for size in range(0, 3000, 17)]
            objects += [each * 2 for each in objects]

    running = [threading.Thread(target=work) for _ in range(4)]
    for each in running:
        each.start()
    for each in running:
        each.join()


def python_objects() -> None:
    text = PATTERN.decode() * 6
    secret, _keeps_it_mapped = text + "!", text + "?"
    address, size = id(secret), sys.getsizeof(secret)
    assert PIECES[1] in ctypes.string_at(address, size)
    del secret
    assert clean(address, size)


def stack() -> None:
    """binascii passes what it decodes, up to 512 bytes, through a buffer on the C stack."""
    secret = os.urandom(400)
    encoded = binascii.b2a_base64(secret)
    pieces = [secret[place : place + 8] for place in range(0, 400, 8)]

    def decode(deeper: int) -> int:
        # Far down, where what happens between decoding and looking doesn't reach.
        if deeper:
            sorted([deeper - 1], key=decode)
        else:
            binascii.a2b_base64(encoded)
        return 0

    decode(10)  # the mapping grows with what is used of it
    lines = Path("/proc/self/maps").read_text().splitlines()
    start, end = (
        int(each, 16) for each in next(line for line in lines if line.endswith("[stack]")).split()[0].split("-")
    )
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        for wiped in (False, True):
            decode(10)
            if wiped:
                assert wipe_stack()
            memory.seek(start)
            content = memory.read(end - start)
            assert any(each in content for each in pieces) != wiped, wiped


for check in (freed, grown, shrunk, edges, aligned, threads, python_objects, stack):
    check()
    sys.stdout.write(f"{check.__name__}\n")
