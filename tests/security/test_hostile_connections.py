"""What a client gets that is slow, silent, endless, or too many: a real server on real sockets, its limits made short.

`pytest -s` prints the table. Single limits, one by one, are in `tests/integration/test_server_limits.py`.
"""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from service.api import json_body
from service.http_protocol import LimitedProtocol
from tests.integration.test_server_limits import GET, OK, answering, listening, rest_of, sent
from tests.proxying import raw
from tests.rest import Headers
from tests.stored import some_user
from tests.support import Stack, serving

HEAD_SECONDS = 0.5
FLOOD = 5000


@pytest.fixture(scope="module")
def told() -> Iterator[list[str]]:
    """The table, line by line; printed at the end."""
    lines: list[str] = []
    yield lines
    print("\n" + "\n".join(lines))  # noqa: T201 - it is what `-s` is for


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedProtocol, "head_seconds", HEAD_SECONDS)


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with listening() as where:
        yield where


def dripped(address: tuple[str, int], start: bytes, drop: bytes, seconds: float = 30) -> tuple[bytes, bool]:
    """Sends the start, then drop after drop for as long as it is let. What came, and whether it was cut off."""
    with socket.create_connection(address) as connection:
        connection.sendall(start)
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began < seconds:
                connection.sendall(drop)
                time.sleep(0.05)
        was_cut = time.monotonic() - began < seconds
        with suppress(ConnectionError):
            return rest_of(connection), was_cut
    return b"", was_cut


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
DRIPS: dict[str, tuple[bytes, bytes]] = {
    "the request line": (b"G", b"E"),
    "headers": (GET, b"X-A: a\r\n"),
    "one header": (GET + b"X-A: ", b"a"),
    "a body behind its answer": (POST + b"Content-Length: 100000\r\n\r\n", b"b"),
    "chunks behind their answer": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nb\r\n"),
    "a chunk's extension": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"e"),
    "empty lines before a request": (b"", b"\r\n"),
}


@pytest.mark.parametrize("what", DRIPS)
def test_whoever_drips_is_cut_off(what: str, address: tuple[str, int], told: list[str]) -> None:
    got, was_cut = dripped(address, *DRIPS[what])
    told.append(f"drips {what:40} {'cut off' if was_cut else 'KEPT'}, {got[9:12].decode() or 'nothing'} answered")
    assert was_cut


def test_a_flood_of_pipelined_requests_is_cut_off_before_it_is_memory(
    monkeypatch: pytest.MonkeyPatch, address: tuple[str, int], told: list[str]
) -> None:
    most = 0
    complete = LimitedProtocol.on_headers_complete

    def counted(self: LimitedProtocol) -> None:
        nonlocal most
        complete(self)
        most = max(most, len(self.pipeline))

    monkeypatch.setattr(LimitedProtocol, "on_headers_complete", counted)
    with socket.create_connection(address) as connection:
        # One that is not answered before the connection ends, and all others behind it.
        connection.sendall(GET.replace(b"/ ", b"/half ") + b"\r\n")
        got = b""
        while not got.endswith(b"half"):
            got += connection.recv(1024)
        with suppress(ConnectionError):
            connection.sendall((GET + b"\r\n") * FLOOD)
        got = rest_of(connection, 30)
    told.append(f"{FLOOD} requests at once behind one under way: at most {most} held")
    assert most <= LimitedProtocol.max_pipelined
    assert got == b""


def test_a_request_under_way_hears_that_its_client_has_gone_whatever_waits_behind_it() -> None:
    begun, gone = threading.Event(), threading.Event()

    async def waiting(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope.get("path") != "/wait":
            await answering(scope, receive, send)
            return
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    with listening(app=waiting) as address:
        with socket.create_connection(address) as connection:
            connection.sendall(GET.replace(b"/ ", b"/wait ") + b"\r\n" + (GET + b"\r\n") * 3)
            assert begun.wait(30)
        assert gone.wait(30)


def test_some_pipelined_requests_are_answered_in_order(address: tuple[str, int]) -> None:
    last = GET + b"Connection: close\r\n\r\n"
    assert sent(address, (GET + b"\r\n") * 20 + last).count(OK) == 21


def test_connections_that_never_send_keep_nobody_out_for_long(told: list[str]) -> None:
    """Far more than there is room for: those beyond it are refused, and the rest are gone with the deadline."""
    with listening(limit_concurrency=50) as address, ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(address))
        honest = GET + b"Connection: close\r\n\r\n"
        refused, began, got = 0, time.monotonic(), b""
        while time.monotonic() - began < 60 and not got.startswith(OK):
            got = sent(address, honest)
            refused += not got.startswith(OK)
        told.append(f"300 silent connections, room for 50: {refused} requests refused, then answered")
        assert got.startswith(OK)


def test_slow_ones_below_the_bound_are_in_nobodys_way(address: tuple[str, int]) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(address)).sendall(GET)
        for _ in range(50):
            assert sent(address, GET + b"Connection: close\r\n\r\n").startswith(OK)


# --- bodies, at the service itself ------------------------------------------------------------------------------------


@pytest.fixture
async def port(stack: Stack) -> AsyncIterator[int]:
    here = serving(stack.settings(reconcile_interval=86_400))
    url = await asyncio.to_thread(here.__enter__)
    yield int(url.rpartition(":")[2])
    await asyncio.to_thread(here.__exit__, None, None, None)


async def test_a_body_that_does_not_come_is_answered_408_and_one_without_a_token_is_not_waited_for(
    port: int, bearer: Callable[..., Headers], monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setattr(json_body, "BODY_SECONDS", 1.0)
    fields = b"POST /v1/credentials HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 200\r\n"
    token = f"Authorization: {bearer('user', some_user())['Authorization']}\r\n".encode()
    half = b'\r\n{"account_id": '
    closing = fields + b"Connection: close\r\n"
    slow, stranger = await raw(port, closing + token + half), await raw(port, closing + half)
    told.append(f"half a body, and no more: {slow.status}; without a token: {stranger.status}")
    assert slow.status == 408
    assert b"urn:vault-credentials:error:body-too-slow" in slow.body
    assert stranger.status == 401
    await _drips_on(port, fields + token + half, told)


async def _drips_on(port: int, start: bytes, told: list[str]) -> None:
    """A body that goes on dripping is answered at the same time, and cut off."""
    got, was_cut = await asyncio.to_thread(dripped, ("127.0.0.1", port), start, b" ", 30.0)
    told.append(f"drips a body of JSON: {'cut off' if was_cut else 'KEPT'}")
    assert was_cut
    assert got == b"" or got.startswith(b"HTTP/1.1 408")
