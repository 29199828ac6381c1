"""A gate before Vault: passes bytes on, over TLS or not, and can hold an answer while a test looks around."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self
from urllib.parse import urlsplit


class Gate:
    """Listens on a free loopback port between `async with`'s two ends; what arrives goes to the upstream, over http."""

    url: str

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        where = urlsplit(upstream)
        self._upstream = where.hostname, where.port
        self._tls = tls
        self._phrase = b""
        self._passed = 0
        self._arrived = asyncio.Event()
        self._opened = asyncio.Event()
        self._opened.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def holding(self, phrase: str, *, passed: int = 0) -> AsyncIterator[None]:
        """While the block runs, answers to requests with this phrase in their head are held after `passed` bytes."""
        self._phrase, self._passed = phrase.encode(), passed
        self._arrived.clear()
        self._opened.clear()
        try:
            yield
        finally:
            self._phrase = b""
            self._opened.set()

    async def held(self) -> None:
        """Returns when an answer is being held."""
        async with asyncio.timeout(20):
            await self._arrived.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._passed_on(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _passed_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        is_held = asyncio.Event()

        async def requests() -> None:
            while data := await reader.read(65_536):
                if self._phrase and self._phrase in data:
                    is_held.set()
                up_writer.write(data)
                await up_writer.drain()

        async def answers() -> None:
            while data := await up_reader.read(65_536):
                if is_held.is_set():
                    is_held.clear()
                    writer.write(data[: self._passed])
                    data = data[self._passed :]
                    await writer.drain()
                    self._arrived.set()
                    await self._opened.wait()
                writer.write(data)
                await writer.drain()

        # Whichever side closes first ends both.
        ways = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            up_writer.close()
