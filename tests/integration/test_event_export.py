"""Events as JSON lines over a real socket: all of them, for whom they are, and an answer seen to end or break off."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from service.api import event_export
from service.errors import DatabaseUnavailable
from service.http_protocol import LimitedProtocol
from service.modules.credential_reader import CredentialReader
from tests.rest import Headers, problem_of, stored
from tests.stored import some_user
from tests.support import Stack, serving
from tests.written import Connection

LINES = {"Accept": event_export.JSON_LINES}
MANY = 3 * event_export.PAGE + 17


async def lived_long(conn: Connection, user: str, credential_id: str, count: int) -> None:
    """Gives a user's credential so many more events."""
    await conn.execute(
        "INSERT INTO credential_events (credential_id, user_id, acting_user, actor, action, outcome, request_id)"
        " SELECT $1::uuid, $2, $2, 'user:' || $2, CASE WHEN i % 2 = 0 THEN 'open' ELSE 'validate' END, 'granted',"
        "        repeat('x', 100) FROM generate_series(1, $3::int) i",
        credential_id,
        user,
        count,
    )


def lines(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == event_export.JSON_LINES
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_an_export_is_every_page_in_one_for_owner_and_auditor(
    server: str, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    user, stranger = some_user(), some_user()
    async with httpx.AsyncClient(base_url=server) as client:
        made = (await stored(client, bearer("user", user)))["id"]
        await lived_long(owner_conn, user, made, MANY)
        for headers in (bearer("user", user), bearer("auditor", "audrey")):
            for path in (f"/v1/credentials/{made}/events?", f"/v1/events?user={user}&"):
                exported = lines(await client.get(path, headers=headers | LINES))
                assert len(exported) == MANY + 1
                paged: list[Any] = []
                address = f"{path}limit=200"
                while address:
                    page = await client.get(address, headers=headers)
                    paged += page.json()["events"]
                    address = page.links.get("next", {}).get("url", "")
                assert exported == paged
            some = lines(await client.get(f"/v1/events?user={user}&action=open", headers=headers | LINES))
            assert {each["action"] for each in some} == {"open"}
            assert len(some) == MANY // 2
        # And nobody else gets any of them.
        others = bearer("user", stranger)
        refused = await client.get(f"/v1/credentials/{made}/events", headers=others | LINES)
        assert problem_of(refused)[:2] == (404, "credential-not-found")
        assert lines(await client.get(f"/v1/events?user={user}", headers=others | LINES)) == []
        assert lines(await client.get("/v1/events", headers=others | LINES)) == []
        for path in ("/v1/events", f"/v1/credentials/{made}/events"):
            assert (await client.get(path, headers=bearer("operator", "olga") | LINES)).status_code == 403
            assert (await client.get(path, headers=LINES)).status_code == 401


@pytest.fixture(scope="module")
def slow_server(stack: Stack) -> Iterator[tuple[str, list[int]]]:
    """A service that notes the pages that it reads."""
    reads: list[int] = []
    events = CredentialReader.events

    async def noted(self: CredentialReader, *args: Any) -> Any:
        reads.append(1)
        return await events(self, *args)

    with patch.object(CredentialReader, "events", noted), serving(stack.settings()) as url:
        yield url, reads


@asynccontextmanager
async def unread(url: str, caller: Headers) -> AsyncIterator[asyncio.StreamReader]:
    """An export that has been asked for, and of which no more than the first bytes are read; hung up at the end."""
    address = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the kernel takes megabytes, unread
    await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    try:
        headers = "".join(f"{name}: {value}\r\n" for name, value in (caller | LINES).items())
        writer.write(f"GET /v1/events HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        async with asyncio.timeout(30):
            await reader.readuntil(b"\r\n")
        yield reader
    finally:
        writer.transport.abort()


async def test_a_client_that_goes_away_ends_the_export(
    slow_server: tuple[str, list[int]], bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    url, reads = slow_server
    user, pages = some_user(), 150
    await lived_long(owner_conn, user, str(uuid4()), pages * event_export.PAGE)
    async with unread(url, bearer("user", user)):
        async with asyncio.timeout(30):
            while len(reads) < 2:  # noqa: ASYNC110 - it runs in another thread
                await asyncio.sleep(0.01)
        # The service waits for room before it reads further pages.
    async with asyncio.timeout(30):
        while True:
            before = len(reads)
            await asyncio.sleep(1)
            if len(reads) == before:
                break
    assert len(reads) < pages


async def test_an_export_that_breaks_off_is_seen_to(
    stack: Stack, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    user = some_user()
    await lived_long(owner_conn, user, str(uuid4()), MANY)
    events = CredentialReader.events

    async def failing(self: CredentialReader, access: Any, wanted: Any, after: Any, limit: int) -> Any:
        if after is not None:
            raise DatabaseUnavailable
        return await events(self, access, wanted, after, limit)

    with patch.object(CredentialReader, "events", failing), serving(stack.settings()) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/v1/events", headers=bearer("user", user) | LINES)


LONG = 60 * event_export.PAGE
"""More events than the sockets' buffers hold."""


async def exported_again(client: httpx.AsyncClient, caller: Headers) -> httpx.Response:
    """The caller's next export, as soon as there is a place for it."""
    async with asyncio.timeout(30):
        while (answer := await client.get("/v1/events?action=rotate", headers=caller | LINES)).status_code == 503:
            assert problem_of(answer)[1] == "busy"
            await asyncio.sleep(0.1)
    return answer


async def test_a_caller_whose_exports_are_all_under_way_is_refused_another_and_others_are_not(
    server: str, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    user, other = some_user(), some_user()
    await lived_long(owner_conn, user, str(uuid4()), LONG)
    mine = bearer("user", user)
    async with httpx.AsyncClient(base_url=server) as client, unread(server, mine), unread(server, mine):
        async with unread(server, mine), unread(server, mine):
            refused = await client.get("/v1/events", headers=mine | LINES)
            assert problem_of(refused)[:2] == (503, "busy")
            assert refused.headers["retry-after"] == "1"
            # A page is no export, and another's export is not this caller's.
            assert (await client.get("/v1/events", headers=mine)).status_code == 200
            assert lines(await client.get("/v1/events", headers=bearer("user", other) | LINES)) == []
        # Two have hung up, half-way.
        assert lines(await exported_again(client, mine)) == []


async def test_an_export_that_is_not_read_is_cut_off_and_its_place_given_back(
    stack: Stack, bearer: Callable[..., Headers], owner_conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LimitedProtocol, "unread_seconds", 1.0)
    exports = event_export.Exports()
    monkeypatch.setattr(event_export, "Exports", lambda: exports)
    user = some_user()
    await lived_long(owner_conn, user, str(uuid4()), LONG)
    mine = bearer("user", user)
    with serving(stack.settings()) as url:
        async with httpx.AsyncClient(base_url=url) as client, unread(url, mine) as reader, unread(url, mine):
            async with asyncio.timeout(30):
                while exports.under_way:  # noqa: ASYNC110 - it runs in another thread
                    await asyncio.sleep(0.01)
            assert lines(await client.get("/v1/events?action=rotate", headers=mine | LINES)) == []
            # Cut off, not ended: what had been sent by then is followed by no last chunk.
            got = b""
            async with asyncio.timeout(30):
                with suppress(ConnectionError):
                    while some := await reader.read(65_536):
                        got = (got + some)[-5:]
            assert got != b"0\r\n\r\n"
