"""An HTTP server that sends exactly the bytes it is told to, when it is told to: what no well-behaved one would."""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class RawRequest:
    """One request as it arrived, with its connection's number, and the way back."""

    connection: int
    head: str
    body: bytes
    writer: asyncio.StreamWriter
    hold: asyncio.Event
    """Set when the server stops; a test may wait for an event of its own instead."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Script = Callable[[RawRequest], Awaitable[None]]


class RawServer:
    """Listens on a free loopback port; each request takes the next script, and after the last the usual answer.

    A script that raises ConnectionError, or closes, ends its connection.
    """

    def __init__(self, usual: Script, tls: ssl.SSLContext | None = None, *, reads: Callable[[int], bool] | None = None):
        self._usual = usual
        self._tls = tls
        self._reads = reads
        """Whether this connection's request is read at all."""
        self.scripts: deque[Script] = deque()
        self.requests: list[RawRequest] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.connected = asyncio.Event()
        self._stopping = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls, limit=1024)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.writers.append(writer)
        self.connected.set()
        try:
            while not writer.is_closing():
                if self._reads is not None and not self._reads(number):
                    await self._stopping.wait()
                    break
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields["Content-Length"]))
                request = RawRequest(number, head.decode(), body, writer, self._stopping)
                self.requests.append(request)
                await (self.scripts.popleft() if self.scripts else self._usual)(request)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def answer(body: bytes, *, status: str = "200 OK", fields: str = "") -> bytes:
    """A plain answer with its length."""
    return f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


def sends(*pieces: bytes, pause: float = 0.0) -> Script:
    """Sends these pieces, one after the other."""

    async def script(request: RawRequest) -> None:
        for piece in pieces:
            await request.send(piece)
            await asyncio.sleep(pause)

    return script


def sends_and_stalls(*pieces: bytes) -> Script:
    """Sends these pieces, and nothing more while the server lives."""

    async def script(request: RawRequest) -> None:
        for piece in pieces:
            await request.send(piece)
        await request.hold.wait()

    return script


def sends_and_closes(*pieces: bytes) -> Script:
    """Sends these pieces and closes in order."""

    async def script(request: RawRequest) -> None:
        for piece in pieces:
            await request.send(piece)
        request.writer.close()

    return script


def sends_and_resets(*pieces: bytes) -> Script:
    """Sends these pieces and breaks the connection off."""

    async def script(request: RawRequest) -> None:
        for piece in pieces:
            await request.send(piece)
        await asyncio.sleep(0.05)  # so that they have been read before the reset overtakes them
        request.writer.transport.abort()

    return script
