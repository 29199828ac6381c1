"""In a provider's place: answers at once, so that what is measured is what stands before it.

`/v2/account` has an answer as long as Alpaca's; `/v2/orders` has one that never ends.
"""

import asyncio
import json
import sys

_ACCOUNT = json.dumps(
    {"id": "e6fe16f3-64a4-4921-8928-cadf02f92f98", "account_number": "PA3ALPACA001", "filler": "0" * 1400}
).encode()
_WHOLE = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ACCOUNT)) + _ACCOUNT
_ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNK = b"400\r\n" + b" " * 1024 + b"\r\n"
_BETWEEN_CHUNKS = 0.02


class StandIn(asyncio.Protocol):
    """One connection: requests without a body, one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._held = b""
        self._endless: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Answers each request that is whole."""
        self._held += data
        while b"\r\n\r\n" in self._held:
            head, _, self._held = self._held.partition(b"\r\n\r\n")
            if head.startswith(b"GET /v2/orders"):
                self._transport.write(_ENDLESS)
                self._go_on()
            else:
                self._transport.write(_WHOLE)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Stops what doesn't end by itself."""
        if self._endless is not None:
            self._endless.cancel()

    def _go_on(self) -> None:
        self._transport.write(_CHUNK)
        self._endless = asyncio.get_running_loop().call_later(_BETWEEN_CHUNKS, self._go_on)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(StandIn, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
