"""Looks for secrets in the memory of another process: `python -m tests.zeroing.scanner PID FD`, the secrets on stdin.

Every 8-byte window counts, of the secret as it is and of each form in which it can travel. Prints JSON: how many
windows were found, where, and how much was read; never what was found.
"""

import base64
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

WINDOW = 8
_PIECE = 65_536
_ZEROS = bytes(_PIECE + WINDOW - 1)
_UNREADABLE = ("[vvar", "[vsyscall]")  # the kernel's own, which /proc/PID/mem does not give


def windows(secrets: Iterable[str]) -> set[bytes]:
    """Every 8-byte window of the secrets, and of how they look in base64, JSON and a URL."""
    found: set[bytes] = set()
    for secret in secrets:
        for form in _forms(secret):
            found.update(form[at : at + WINDOW] for at in range(len(form) - WINDOW + 1))
    return found


def _forms(secret: str) -> Iterator[bytes]:
    raw = secret.encode("ascii")
    yield raw
    yield json.dumps(secret)[1:-1].encode("ascii")
    yield quote(secret, safe="").encode("ascii")
    # Within something longer the secret may begin at any of base64's three positions; whole groups of it look the same.
    for skipped in range(3):
        whole = raw[skipped : skipped + (len(raw) - skipped) // 3 * 3]
        yield base64.b64encode(whole)
        yield base64.urlsafe_b64encode(whole)


def scan(pid: int, memory: int, secrets: Sequence[str]) -> dict[str, object]:
    """`{"windows": int, "where": {mapping: int}, "megabytes": float, "seconds": float}`.

    `memory` is the open file of /proc/PID/mem: whether it may be read is decided when it is opened, which a parent may
    do where others of the same user may not (https://docs.kernel.org/admin-guide/LSM/Yama.html). The process is stopped
    meanwhile, so that nothing moves.
    """
    started = time.monotonic()
    wanted = windows(secrets)
    # An 8-byte window holds a whole aligned word of 4 bytes, wherever it begins: so aligned words are looked at, which
    # are many times fewer than bytes, and only where one fits are the windows that hold it looked for.
    holding: dict[int, set[bytes]] = {}
    for window in wanted:
        for at in range(WINDOW - 3):
            holding.setdefault(int.from_bytes(window[at : at + 4], sys.byteorder), set()).add(window)
    words = frozenset(holding)
    where: dict[str, int] = {}
    read = 0
    with _stopped(pid):
        for name, start, end in _mappings(pid):
            for address, piece in _pieces(memory, start, end):
                read += min(_PIECE, end - address)
                aligned = memoryview(piece)[: len(piece) // 4 * 4].cast("I")
                if piece == _ZEROS or words.isdisjoint(aligned):
                    continue
                suspects: set[bytes] = set().union(*(holding[word] for word in words.intersection(aligned)))
                found = sum(_count(piece, window) for window in suspects)
                if found:
                    where[name] = where.get(name, 0) + found
    return {
        "windows": sum(where.values()),
        "where": where,
        "megabytes": round(read / 1e6, 1),
        "seconds": round(time.monotonic() - started, 3),
    }


def _count(piece: bytes, window: bytes) -> int:
    found, at = 0, piece.find(window)
    while at >= 0:
        found, at = found + 1, piece.find(window, at + 1)
    return found


def _pieces(memory: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """A mapping by pieces, each with as many bytes of what follows (the next mapping's too) as can begin a window."""
    for address in range(start, end, _PIECE):
        try:
            yield address, os.pread(memory, min(_PIECE, end - address) + WINDOW - 1, address)
        except OSError:  # a file's mapping beyond the file's end
            continue


def _mappings(pid: int) -> Iterator[tuple[str, int, int]]:
    """The readable ones (https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html)."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, _offset, _device, _inode, *name = line.split(maxsplit=5)
        shown = Path(name[0]).name if name else "anonymous"
        if rights.startswith("r") and not shown.startswith(_UNREADABLE):
            start, end = (int(each, 16) for each in span.split("-"))
            yield shown, start, end


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        while any(state != "T" for state in _states(pid)):
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> Iterator[str]:
    """Of each thread: `T` is stopped. The name before it is in brackets and may hold anything."""
    for status in Path(f"/proc/{pid}/task").glob("*/stat"):
        yield status.read_text().rpartition(")")[2].split()[0]


if __name__ == "__main__":
    json.dump(scan(int(sys.argv[1]), int(sys.argv[2]), json.load(sys.stdin)), sys.stdout)
