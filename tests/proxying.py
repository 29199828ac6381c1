"""What tests of proxied calls share: a service on a socket before doubles of the providers, and somebody's keys."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx

from tests.doubles.alpaca import AlpacaDataDouble, AlpacaDouble
from tests.doubles.polygon import PolygonDouble
from tests.rest import Headers, problem_of, stored
from tests.stored import some_user
from tests.support import Stack, canary, serving
from tests.written import Connection, Pair

ACCOUNT = "v2/account"
ORDER = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}


@dataclass(frozen=True)
class Held:
    """Somebody's credential, as its owner calls with it."""

    id: str
    user_id: str
    headers: Headers
    keys: Pair = field(repr=False)

    def address(self, path: str) -> str:
        return f"/v1/credentials/{self.id}/proxy/{path}"


@dataclass(frozen=True)
class Proxied:
    """The service, and the providers behind it."""

    url: str
    alpaca: AlpacaDouble
    data: AlpacaDataDouble
    polygon: PolygonDouble
    client: httpx.AsyncClient
    bearer: Callable[..., Headers]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def held(self, credential_type: str = "alpaca", user_id: str | None = None) -> Held:
        """A new credential, of keys that its provider accepts."""
        user_id = user_id or some_user()
        headers, keys = self.bearer("user", user_id), (canary("AK"), canary("SK"))
        made = await stored(self.client, headers, credential_type=credential_type, api_key=keys[0], secret_key=keys[1])
        if credential_type == "polygon":
            self.polygon.issue_key(keys[0])
        else:
            self.alpaca.open_account(*keys)
        return Held(made["id"], user_id, headers, keys)

    async def call(self, held: Held, method: str, path: str = ACCOUNT, **given: Any) -> httpx.Response:
        """One call with it."""
        headers = {**held.headers, **given.pop("headers", {})}
        return await self.client.request(method, held.address(path), headers=headers, **given)

    def seen(self) -> int:
        """How many requests any of the providers got."""
        return sum(len(each.seen) for each in (self.alpaca, self.data, self.polygon))


@asynccontextmanager
async def proxied(
    stack: Stack, bearer: Callable[..., Headers], *, alpaca: AlpacaDouble | None = None, **settings: Any
) -> AsyncIterator[Proxied]:
    """The service on these settings, on a socket, with doubles of its own."""
    made = alpaca or AlpacaDouble()
    async with made, AlpacaDataDouble(made) as data, PolygonDouble() as polygon:
        addresses = {"alpaca_base_url": made.url, "alpaca_data_url": data.url, "polygon_base_url": polygon.url}
        serving_here = serving(stack.settings(**{**addresses, **settings}))
        url = await asyncio.to_thread(serving_here.__enter__)
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                yield Proxied(url, made, data, polygon, client, bearer)
        finally:
            # Not in this loop's way: calls under way are waited for, and what answers them runs here.
            await asyncio.to_thread(serving_here.__exit__, None, None, None)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """An error of the service's own: its status and name."""
    assert answer.headers["x-answered-by"] == "service"
    return problem_of(answer)[:2]


async def events(conn: Connection, credential_id: str) -> list[tuple[str, str, str | None]]:
    """Action, outcome and reason of all that was recorded of a credential, in order, but for its storing."""
    rows = await conn.fetch(
        "SELECT action, outcome, reason FROM credential_events WHERE credential_id = $1 AND action <> 'store'"
        " ORDER BY at, id",
        UUID(credential_id),
    )
    return [tuple(row) for row in rows]


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it came over the socket."""

    head: bytes
    body: bytes
    """What came until the connection was closed, not dechunked."""

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])


async def raw(port: int, request: bytes, *, seconds: float = 20.0) -> RawAnswer:
    """Sends bytes as they are, and reads until the service closes, or says no more for `seconds`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        got = b""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                while data := await reader.read(65_536):
                    got += data
    finally:
        writer.close()
    head, _, body = got.partition(b"\r\n\r\n")
    return RawAnswer(head, body)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Returns when it holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is a number in another part
            await asyncio.sleep(0.01)
