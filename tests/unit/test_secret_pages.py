"""Pages for secrets: slots that are never two owners', wiped however they come back; forks, core dumps, swap."""

import copy
import ctypes
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from service.memory import secret_pages
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SIZE_CLASSES, SecretBuffer
from tests.support import canary

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux says in /proc what it does with a mapping")


def owners(count: int, size: int) -> list[Plaintext]:
    """Enough new owners that whatever slot is free becomes one's, each with something else than zeros in it."""
    held = [Plaintext.allocate(size) for _ in range(count)]
    for plaintext in held:
        plaintext.reveal()[:] = b"\xff" * size
    return held


@pytest.mark.parametrize("size", [1, 64, 65, 1025, 4096, 4097, 100_000])
def test_a_view_that_was_kept_reads_as_zeros_and_never_as_the_next_owners_secret(size: int) -> None:
    plaintext = Plaintext.allocate(size)
    whole = plaintext.reveal()
    whole[:] = b"s" * size
    kept: list[memoryview[Any]] = [whole[:1], whole.cast("c")]
    del whole
    plaintext.wipe()
    held = owners(600, size) if size <= SIZE_CLASSES[-1] else owners(5, size)
    assert bytes(kept[0]) == bytes(1)
    assert bytes(kept[1]) == bytes(size)
    for owner in held:
        owner.wipe()


def test_a_slot_is_used_again_once_no_view_of_it_is_left_and_holds_nothing_that_was_written_late() -> None:
    plaintext = Plaintext.allocate(128)
    address = plaintext.address
    view = plaintext.reveal()
    plaintext.wipe()
    view[:] = b"l" * 128
    del view
    held = [Plaintext.allocate(128)]
    while held[-1].address != address:
        assert len(held) < 10_000, "it never came back"
        held.append(Plaintext.allocate(128))
    assert not any(held[-1].reveal())


def test_wiping_twice_gives_the_slot_back_once() -> None:
    plaintext = Plaintext.copy_of("x" * 300)
    plaintext.wipe()
    plaintext.wipe()
    held = owners(100, 300)
    assert len({owner.address for owner in held}) == len(held)


def test_a_wiped_one_has_no_address_and_its_zeros_cannot_be_written_to() -> None:
    for size in (0, 64, 5000):
        plaintext = Plaintext.allocate(size)
        assert plaintext.address
        plaintext.wipe()
        assert plaintext.reveal() == bytes(size)
        assert plaintext.reveal().readonly
        with pytest.raises(ValueError, match="wiped"):
            _ = plaintext.address


def test_all_of_a_new_one_is_zero_writable_and_of_the_size_that_was_asked_for() -> None:
    for size in (0, 1, 63, 64, 65, 1088, 1089, 5000):
        with Plaintext.allocate(size) as plaintext:
            view = plaintext.reveal()
            assert view == bytes(size)
            assert len(view) == len(plaintext) == size
            view[:] = b"w" * size
            assert ctypes.string_at(plaintext.address, size) == b"w" * size


def test_what_is_forgotten_is_wiped() -> None:
    secret = canary()
    plaintext = Plaintext.copy_of(secret)
    address = plaintext.address
    assert ctypes.string_at(address, len(secret)) == secret.encode()
    del plaintext
    assert not any(ctypes.string_at(address, len(secret)))


def test_threads_never_share_a_slot() -> None:
    start = threading.Barrier(6)
    wrong: list[str] = []

    def work(mine: bytes) -> None:
        start.wait()
        for _ in range(400):
            held = [Plaintext.allocate(size) for size in (40, 100, 1025)]
            for plaintext in held:
                if any(plaintext.reveal()):
                    wrong.append("not zero at first")
                plaintext.reveal()[:] = mine * len(plaintext)
            wrong.extend("another's" for plaintext in held if bytes(plaintext.reveal()) != mine * len(plaintext))
            for plaintext in held:
                plaintext.wipe()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(bytes([65 + n]),)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_growing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_pages, "MAX_SLOT_BYTES", 0)
    held: list[Plaintext] = []
    with pytest.raises(MemoryError, match="too many secrets"):
        held.extend(Plaintext.allocate(512) for _ in range(100_000))
    for plaintext in held:
        plaintext.wipe()
    Plaintext.allocate(512).wipe()


def test_where_locking_is_not_permitted_all_goes_on_and_it_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for refusing in (lambda _address, _size: -1, None):
        monkeypatch.setattr(secret_pages, "_mlock", refusing)
        locked, mapped = secret_pages.locked_bytes(), secret_pages.mapped_bytes()
        with SecretBuffer(10_000) as buffer:
            assert not buffer.is_locked
            assert secret_pages.locked_bytes() == locked
            assert secret_pages.mapped_bytes() >= mapped + 10_000
            assert not secret_pages.is_locked()
            buffer.view[:3] = b"abc"
        assert secret_pages.mapped_bytes() == mapped


def test_a_system_without_the_advices_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    for advice in (None, 0x7FFF):
        monkeypatch.setattr(secret_pages, "_DONTDUMP", advice)
        monkeypatch.setattr(secret_pages, "_WIPEONFORK", advice)
        with SecretBuffer(64) as buffer:
            buffer.view[:] = b"x" * 64


@on_linux
def test_the_pages_are_in_no_core_dump_and_locked_where_it_says_so() -> None:
    with SecretBuffer(300_000) as buffer, Plaintext.copy_of(canary()) as plaintext:
        assert {"dd", "wf"} <= flags_of(buffer.address)
        assert ("lo" in flags_of(buffer.address)) == buffer.is_locked
        assert {"dd", "wf"} <= flags_of(plaintext.address)


def flags_of(address: int) -> set[str]:
    """VmFlags of the mapping that holds this address (https://docs.kernel.org/filesystems/proc.html)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    raise AssertionError("no such mapping")


FORK = """
import gc, os, re, sys
from service.memory import secret_pages
if sys.argv[1] == "handler":
    secret_pages._WIPEONFORK = None
from service.memory.plaintext import Plaintext

def locked_bytes():
    if sys.platform != "linux":
        return secret_pages.locked_bytes()
    return 1024 * int(re.search(r"VmLck:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

held, forgotten = Plaintext.copy_of("s" * 100), [Plaintext.copy_of("t" * 40)]
buffer = secret_pages.SecretBuffer(5000)
buffer.view[:] = b"u" * 5000
view = held.reveal()
assert locked_bytes() == secret_pages.locked_bytes()
child = os.fork()
if child == 0:
    clean = not any(view) and not any(buffer.view) and locked_bytes() == secret_pages.locked_bytes()
    forgotten.clear()
    held.wipe()
    with Plaintext.copy_of("again") as after:
        clean = clean and after.reveal() == b"again"
    buffer.close()
    gc.collect()
    os._exit(0 if clean else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(status if bytes(view) == b"s" * 100 and buffer.view[4999] == ord("u") else 2)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing to fork")
@pytest.mark.parametrize("way", [pytest.param("kernel", marks=on_linux), "handler"])
def test_a_forked_child_finds_zeros_and_can_go_on_while_its_parent_keeps_its_secrets(way: str) -> None:
    ended = subprocess.run([sys.executable, "-c", FORK, way], capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


SHUTDOWN = """
import builtins, sys
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SecretBuffer
builtins.kept = [Plaintext.copy_of("s"), Plaintext.allocate(99999), SecretBuffer(9)]
builtins.views = [builtins.kept[0].reveal(), builtins.kept[2].view]
builtins.kept.append(builtins.kept)
"""


def test_what_is_still_held_when_the_interpreter_ends_ends_quietly() -> None:
    ended = subprocess.run([sys.executable, "-X", "dev", "-c", SHUTDOWN], capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_buffer_is_wiped_as_far_as_it_was_used_or_whole() -> None:
    with SecretBuffer(10_000) as buffer:
        buffer.view[:] = b"x" * 10_000
        buffer.wipe(4000)
        assert not any(buffer.view[:4000])
        assert bytes(buffer.view[4000:]) == b"x" * 6000
        buffer.wipe(50_000)
        assert not any(buffer.view)


def test_a_view_of_a_closed_buffer_reads_as_zeros() -> None:
    buffer = SecretBuffer(10_000)
    buffer.view[:] = b"x" * 10_000
    kept = buffer.view[9000:]
    made_of_it = ctypes.c_char.from_buffer(buffer.view)
    buffer.close()
    buffer.close()
    buffer.wipe()
    assert not any(kept)
    assert made_of_it.value == b"\0"


def test_a_slot_or_a_buffer_cannot_be_pickled_or_copied() -> None:
    with SecretBuffer(1) as buffer:
        for held in (secret_pages.take(1), secret_pages.take(5000), buffer):
            for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError):
                    attempt(held)
