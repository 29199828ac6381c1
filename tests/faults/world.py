"""What the faults happen to: Postgres and Vault of their own, two replicas of the service, and a stand-in provider."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from aiohttp import web

from service.localstack.postgres_server import running_postgres
from service.localstack.state_dir import StateDir
from service.localstack.vault_binary import VaultSource
from service.localstack.vault_server import running_vault
from tests.doubles.link import Link
from tests.doubles.scripted_server import ScriptedServer
from tests.faults.replica import Replica
from tests.support import Stack
from tests.written import Connection

_UNLIMITED = {
    f"CREDENTIALS_{name}_PER_MINUTE{whose}": "0" for name in ("PROXY_CALLS", "HANDOFFS") for whose in ("", "_CALLER")
}


class Echo(ScriptedServer):
    """In Alpaca's place: says which keys it was called with."""

    async def usual(self, request: web.Request) -> web.StreamResponse:
        self.seen.clear()  # a long run's would fill the memory
        keys = [request.headers.get(f"APCA-API-{name}", "") for name in ("KEY-ID", "SECRET-KEY")]
        return web.json_response(keys)


def _silent(_line: str) -> None:
    """What is said of each start was said at the first."""


class Servers:
    """Postgres and Vault: processes of this machine, which can be killed and started again on what they had."""

    def __init__(self, stack: Stack, source: VaultSource) -> None:
        self.stack = stack
        self._state = StateDir(stack.local.state_dir)
        self._source = source
        self._running: dict[str, ExitStack] = {}

    def _pid(self, name: str) -> int:
        return int(self._state.read_json(f"{name}.pid.json")["pid"])

    async def kill(self, name: str) -> None:
        """SIGKILL, to all of its processes."""
        pid = self._pid(name)
        for each in (pid, *_children(pid)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        await asyncio.to_thread(self._gone, pid)

    async def stop(self, name: str) -> None:
        """In order."""
        pid = self._pid(name)
        os.kill(pid, signal.SIGINT)
        await asyncio.to_thread(self._gone, pid)

    @staticmethod
    def _gone(pid: int) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                return
            if state == "Z":
                # To a new postmaster the remains of the one before would be a server that runs.
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
                return
            time.sleep(0.02)
        raise AssertionError("a server does not end")

    async def start(self, name: str) -> None:
        """Starts it again; it answers, and Vault is unsealed, when this returns."""
        running = self._running.setdefault(name, ExitStack())

        def begin() -> None:
            running.close()  # what was killed is waited for
            if name == "postgres":
                running.enter_context(running_postgres(None, self._state, _silent))
            else:
                running.enter_context(running_vault(self._source, self._state, _silent))

        await asyncio.to_thread(begin)

    def close(self) -> None:
        """Stops what was started here."""
        for running in self._running.values():
            running.close()

    def vault(self, method: str, path: str, body: object = None) -> httpx.Response:
        """One request to Vault as root."""
        return self.stack.vault(method, path, body)

    def unseal(self) -> None:
        """Unseals Vault."""
        assert self.vault("PUT", "sys/unseal", {"key": self._state.read_json("init.json")["unseal_key"]}).is_success

    @asynccontextmanager
    async def superuser(self) -> AsyncIterator[Connection]:
        """A connection to the service's database as Postgres' superuser."""
        password = self._state.read_json("postgres.json")["superuser_password"]
        parts = urlsplit(self.stack.owner_url)
        url = parts._replace(netloc=f"postgres:{password}@{parts.netloc.rpartition('@')[2]}")
        conn = await asyncpg.connect(urlunsplit(url))
        try:
            await conn.execute("SET default_transaction_read_only = off")
            yield conn
        finally:
            await conn.close()


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class World:
    """All of it. `replicas[0]` reaches Vault and Postgres itself, `replicas[1]` by way of the two links."""

    servers: Servers
    replicas: list[Replica]
    to_vault: Link
    to_postgres: Link
    environment: dict[str, str]
    folder: Path
    victim: str = ""
    """The replica that is killed."""

    @property
    def stack(self) -> Stack:
        return self.servers.stack


@asynccontextmanager
async def world(stack: Stack, source: VaultSource, folder: Path) -> AsyncIterator[World]:
    """Everything, started, for as long as the block lasts. The stack is this world's own."""
    vault, postgres = urlsplit(stack.vault_addr), urlsplit(stack.runtime_url)
    async with AsyncExitStack() as opened:
        echo = await opened.enter_async_context(Echo())
        to_vault = await opened.enter_async_context(Link("127.0.0.1", vault.port or 0))
        to_postgres = await opened.enter_async_context(Link("127.0.0.1", postgres.port or 0))
        environment = {
            **stack.local.environment(),
            **_UNLIMITED,
            "ALPACA_BASE_URL": echo.url,
            "CREDENTIALS_RECONCILE_INTERVAL": "5",
            "CREDENTIALS_SEAL_SECONDS": "1",
            "CREDENTIALS_LOG_LEVEL": "WARNING",
        }
        login = postgres.netloc.rpartition("@")[0]
        by_links = {
            "VAULT_ADDR": f"http://127.0.0.1:{to_vault.port}",
            "DATABASE_URL": urlunsplit(postgres._replace(netloc=f"{login}@127.0.0.1:{to_postgres.port}")),
        }
        replicas = [
            Replica("direct", environment, folder),
            Replica("by-links", {**environment, **by_links}, folder),
        ]
        servers = Servers(stack, source)
        try:
            for each in replicas:
                await each.start()
            for each in replicas:
                await each.ready()
            yield World(servers, replicas, to_vault, to_postgres, environment, folder)
        finally:
            for each in replicas:
                await each.kill()
            await asyncio.to_thread(servers.close)


@contextmanager
def tiny_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A file system of this size.

    Raises:
        OSError: none can be mounted here: this takes root.
    """
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(folder)]).returncode:
        raise OSError("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """The disk has no byte left, for as long as the block lasts."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    try:
        yield
    finally:
        filler.unlink()
