"""The scanner finds what is there, wherever it lies and in whatever form, and nothing else."""

import asyncio
import base64
import json
import secrets
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from tests.zeroing.processes import pair, scan
from tests.zeroing.scanner import WINDOW, windows

_MASK = 0x55
_SIZE = 4 * 65_536

# The process never has the bytes anywhere but where it puts them: it is given them masked, one by one.
_HOLDER = """
    import json, mmap, sys
    memory = mmap.mmap(-1, {size}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_DONTDUMP"):
        memory.madvise(mmap.MADV_DONTDUMP)
    for at, masked in json.loads(sys.stdin.readline()):
        for index, byte in enumerate(masked):
            memory[at + index] = byte ^ {mask}
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    sys.stdin.readline()
"""


@asynccontextmanager
async def _holder(placed: Sequence[tuple[int, bytes]]) -> AsyncIterator[int]:
    """A process that holds these bytes at these offsets of a mapping; its id."""
    program = textwrap.dedent(_HOLDER.format(size=_SIZE, mask=_MASK))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    masked = [(at, [byte ^ _MASK for byte in what]) for at, what in placed]
    process.stdin.write(json.dumps(masked).encode() + b"\n")
    assert await process.stdout.readline() == b"ready\n"
    yield process.pid
    await process.communicate(b"\n")


async def test_one_window_is_found_at_any_place_also_where_pieces_meet() -> None:
    key = pair(1)[0]
    places = [0, 101, 4096 - 3, 65_536 - 7, 65_536 + 8, 2 * 65_536 - 4, 3 * 65_536 - 1, _SIZE - WINDOW]
    window = key[20 : 20 + WINDOW].encode()
    async with _holder([(at, window) for at in places]) as pid:
        found = await scan(pid, [key])
    assert found.windows == len(places)
    assert sum(found.where.values()) == len(places)


@pytest.mark.parametrize("before", [b"", b"x", b"xy"])
async def test_it_is_found_in_base64_at_each_of_the_three_positions(before: bytes) -> None:
    key = pair(2)[0]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        async with _holder([(5, encode(before + key.encode() + b"\n" + secrets.token_bytes(20)))]) as pid:
            found = await scan(pid, [key])
        # All but the ends, whose groups are made of something else, too.
        assert found.windows >= len(key) * 4 // 3 - 4 - WINDOW


async def test_it_is_found_as_json_and_urls_write_it() -> None:
    key = pair(0)[0]
    assert json.dumps(key)[1:-1] != key
    for text in (json.dumps({"key": key}), f"https://host/?key={quote(key, safe='')}"):
        async with _holder([(0, text.encode())]) as pid:
            assert (await scan(pid, [key])).windows > len(key) - WINDOW


async def test_seven_bytes_are_not_counted_nor_anything_of_another_key() -> None:
    key, other = pair(3)
    async with _holder([(0, key[:7].encode()), (100, key.encode())]) as pid:
        assert (await scan(pid, [key])).windows == len(key) - WINDOW + 1
        assert (await scan(pid, [other])).windows == 0


def test_every_window_of_a_secret_is_looked_for() -> None:
    key = pair(5)[0]
    wanted = windows([key])
    assert {key[at : at + WINDOW].encode() for at in range(len(key) - WINDOW + 1)} <= wanted
    assert all(len(window) == WINDOW for window in wanted)
