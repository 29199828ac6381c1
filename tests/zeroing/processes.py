"""Fresh processes to look into: started as a user starts them, given ciphertext or a request alone."""

import asyncio
import json
import os
import secrets
import signal
import string
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.localstack.state_dir import free_port
from service.memory.hardening import prepared

ROOT = Path(__file__).parents[2]
LENGTHS = tuple(range(48, 66))
Keys = tuple[str, str]

_ALPHABET = string.ascii_letters + string.digits
_PATIENCE = 60.0
_VAULT_CREDENTIALS = (sys.executable, "-m", "service.cli")


def pair(number: int) -> Keys:
    """Two random keys. Over 18 numbers, each of the two has every length from 48 to 65."""
    return _key(LENGTHS[number % len(LENGTHS)]), _key(LENGTHS[-1 - number % len(LENGTHS)])


def _key(length: int) -> str:
    """Those of an even length hold characters that JSON and URLs escape, each far from the next."""
    made = [secrets.choice(_ALPHABET) for _ in range(length)]
    if length % 2 == 0:
        for at, character in zip((9, 20, 31, 42), '"\\/+', strict=True):
            made[at] = character
    return "".join(made)


# --- scanning -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a scan found: counts, never bytes."""

    windows: int
    where: dict[str, int]
    megabytes: float
    seconds: float


async def scan(pid: int, keys: Sequence[str]) -> Found:
    """Looks into a child of this process. Raises PermissionError where it isn't dumpable, unless this is root."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        scanner = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.zeroing.scanner", str(pid), str(memory)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(memory,),
        )
    finally:
        os.close(memory)
    told, _ = await scanner.communicate(json.dumps(list(keys)).encode())
    assert scanner.returncode == 0, "the scanner failed"
    found = Found(**json.loads(told))
    assert found.megabytes > 5, "a Python process is larger than what was read"
    return found


async def scan_until_gone(pid: int, keys: Sequence[str], *, within: float) -> tuple[Found, float]:
    """Scans until nothing is found, or the time is over; the last scan, and how long it took."""
    began = time.monotonic()
    while True:
        found = await scan(pid, keys)
        if not found.windows or time.monotonic() - began > within:
            return found, time.monotonic() - began
        await asyncio.sleep(0.1)


# --- environments -------------------------------------------------------------------------------------------------


def environment_without(environment: Mapping[str, str], *names: str) -> dict[str, str]:
    """What `vault-credentials exec` and `serve` put a program into, without some of the variables."""
    made = prepared({**os.environ, **environment}, by="exec").variables
    return {name: value for name, value in made.items() if name not in names}


# --- processes ----------------------------------------------------------------------------------------------------


class Target:
    """A process that stops at places, and says so by a line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def reached(self, place: str) -> None:
        """Waits until it is there."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            told = (await self._process.stdout.readline()).decode().strip()
        assert told == place, f"it is at {told!r} and not at {place!r}"

    def go_on(self, line: str = "") -> None:
        """Lets it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())


@asynccontextmanager
async def target(
    environment: Mapping[str, str],
    doing: str,
    told: Mapping[str, Any],
    *,
    module: str = "tests.zeroing.target",
    by_exec: bool = True,
) -> AsyncIterator[Target]:
    """A process of `target.py` (or another such module), as long as the block lasts.

    By `vault-credentials exec`; or just in `environment`, which is then all it gets of this kind.
    """
    command = (sys.executable, "-m", module)
    process = await asyncio.create_subprocess_exec(
        *((*_VAULT_CREDENTIALS, "exec", "--", *command) if by_exec else command),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with _ended(process):
        made = Target(process)
        made.go_on(json.dumps({"doing": doing, "without": [], **told}))
        yield made


@dataclass(frozen=True)
class Service:
    """A process of the service."""

    pid: int
    port: int

    def client(self, headers: Mapping[str, str]) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30)


@asynccontextmanager
async def service(
    environment: Mapping[str, str], *, module: str | None = None, without: Sequence[str] = ()
) -> AsyncIterator[Service]:
    """`vault-credentials serve`, as long as the block lasts; with `module`, that one, in the environment given."""
    port = free_port()
    command = (*_VAULT_CREDENTIALS, "serve") if module is None else (sys.executable, "-m", module, *without)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={
            **os.environ,
            **environment,
            "CREDENTIALS_PORT": str(port),
            "CREDENTIALS_DUMPABLE": "true",
            "CREDENTIALS_LOG_LEVEL": "ERROR",
            # What it would allocate meanwhile, to look at everything, overwrites what the scan is after.
            "CREDENTIALS_METRICS_SECONDS": "0",
        },
    )
    async with _ended(process):
        made = Service(process.pid, port)
        async with made.client({}) as client, asyncio.timeout(_PATIENCE):
            while True:
                try:
                    await client.get("/healthz")
                    break
                except httpx.TransportError:
                    assert process.returncode is None, "the service has ended"
                    await asyncio.sleep(0.02)
        yield made


@asynccontextmanager
async def _ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        # Not process.kill(): where the process has ended by itself, that takes its status away from asyncio.
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
