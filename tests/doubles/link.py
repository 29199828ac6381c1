"""A network between the service and one of its servers: slow, silent, or breaking in the middle of an answer."""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Link:
    """Passes bytes on, on a loopback port of its own, between `async with`'s two ends.

    `delay`: seconds that each piece of an answer is held back. `is_silent`: nothing is passed on, and nothing closed.
    `cut_every`: each so manieth answer breaks off in its middle, and its connection is reset at both ends.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._answers = 0
        self._ends: set[asyncio.StreamWriter] = set()
        self._speaks = asyncio.Event()
        self.is_silent = False
        self.delay = 0.0
        self.cut_every = 0
        self.cuts = 0

    @property
    def is_silent(self) -> bool:
        return not self._speaks.is_set()

    @is_silent.setter
    def is_silent(self, value: bool) -> None:
        (self._speaks.clear if value else self._speaks.set)()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._speaks.set()
        for end in list(self._ends):
            end.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._speaks.wait()
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        ends = {writer, server_writer}
        self._ends |= ends
        ways = [
            asyncio.create_task(self._pass_on(reader, server_writer)),
            asyncio.create_task(self._pass_back(server_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                _reset(end)
            self._ends -= ends

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._speaks.wait()
                writer.write(data)
                await writer.drain()

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._speaks.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                self._answers += 1
                if self.cut_every and self._answers % self.cut_every == 0:
                    self.cuts += 1
                    writer.write(data[: len(data) // 2])
                    with suppress(TimeoutError):
                        await asyncio.wait_for(writer.drain(), 1)
                    return
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
