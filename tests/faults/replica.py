"""A process of `vault-credentials serve`, to be killed, stopped and started again."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from service.localstack.processes import tied_to_this_process
from service.localstack.state_dir import free_port

_ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "-m", "service.cli", "serve")
_START_SECONDS = 240.0  # a busy machine starts a process twenty times as slowly


class Replica:
    """One replica, on the same port each time that it is started."""

    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{name}.log"
        self._environment = {**os.environ, **environment, "CREDENTIALS_PORT": str(self.port)}
        self._environment.pop("VAULT_TOKEN", None)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "it was not started"
        return self._process

    async def start(self) -> float:
        """Starts it, and returns when it answers: after how many seconds."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *tied_to_this_process(_COMMAND, signal.SIGKILL),
                cwd=_ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        async with httpx.AsyncClient(base_url=self.url, timeout=5, trust_env=False) as client:
            while time.monotonic() - began < _START_SECONDS:
                with suppress(httpx.TransportError):
                    await client.get("/healthz")
                    return time.monotonic() - began
                assert self.process.returncode is None, f"it did not start: {self.log.read_text()[-2000:]}"
                await asyncio.sleep(0.02)
        raise AssertionError("it does not answer")

    async def ready(self) -> None:
        """Waits until it says that it is ready."""
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=30, trust_env=False) as client,
            asyncio.timeout(_START_SECONDS),
        ):
            while True:
                if (await client.get("/readyz")).status_code == httpx.codes.OK:
                    return
                await asyncio.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.process.pid, number)

    async def ended(self, seconds: float = 60) -> int:
        """Waits for its end; its status."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def kill(self) -> None:
        """Ends it without a word, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            await self.ended()
