"""A network between the service and Postgres that can break just when it matters: around a COMMIT."""

import asyncio
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit


class PostgresProxy:
    """Passes bytes on, on a loopback port of its own, between `async with`'s two ends.

    `cut` says where the connection breaks at the next COMMIT: before Postgres sees it, or after Postgres has done it
    and before its answer is delivered. A cut happens once.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.cut: Literal["before", "after"] | None = None
        self.cuts = 0
        self._is_lost = False
        self._ends: set[asyncio.StreamWriter] = set()

    def lose(self) -> None:
        """From now on Postgres can't be reached: every connection breaks, and none is made."""
        self._is_lost = True
        for end in self._ends:
            end.transport.abort()

    @property
    def url(self) -> str:
        """The database's URL, by way of this proxy."""
        user = self._target.netloc.rpartition("@")[0]
        port = self._server.sockets[0].getsockname()[1]
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_lost:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._ends |= {writer, server_writer}
        is_cut = asyncio.Event()

        async def upstream() -> None:
            while data := await reader.read(65536):
                # asyncpg sends its transaction's COMMIT as a simple query of its own.
                if b"COMMIT;" in data and self.cut is not None:
                    where, self.cut = self.cut, None
                    self.cuts += 1
                    is_cut.set()
                    if where == "before":
                        return
                server_writer.write(data)

        async def downstream() -> None:
            while data := await server_reader.read(65536):
                if is_cut.is_set():
                    return
                writer.write(data)

        tasks = [asyncio.create_task(upstream()), asyncio.create_task(downstream())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (writer, server_writer):
            end.transport.abort()
            self._ends.discard(end)
