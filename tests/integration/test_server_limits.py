"""What a connection may hold and how long it may stay, before anybody is authenticated: a real server, real sockets."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from service.errors import ConfigurationError
from service.http_protocol import LimitedProtocol
from service.localstack import launcher
from service.server import Server, bound, config, serve

OK = b"HTTP/1.1 200 OK"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
LARGE = 40_000_000  # more than the sockets' buffers hold


async def answering(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that answers at once; at /read only after the whole body; at /large with much; at /half half."""
    if scope["type"] == "lifespan":
        for part in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{part}.complete"})
        return
    if scope["path"] == "/read":
        while (await receive()).get("more_body"):
            pass
    if scope["path"] == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"500")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = b"l" * LARGE if scope["path"] == "/large" else b"ok"
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def listening(**changes: Any) -> Iterator[tuple[str, int]]:
    settings = config(answering)
    for name, value in changes.items():
        setattr(settings, name, value)
    ready = threading.Event()
    with bound("127.0.0.1", 0) as listener:
        server = Server(settings, ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            assert ready.wait(10)
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(LimitedProtocol, "head_seconds", 0.5)
    with listening() as where:
        yield where


def rest_of(connection: socket.socket, seconds: float = 5) -> bytes:
    """Everything until the server closes, however it does. Fails if it doesn't."""
    connection.settimeout(seconds)
    got = bytearray()
    with suppress(ConnectionError):
        while data := connection.recv(65536):
            got += data
    return bytes(got)


def sent(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address) as connection:
        with suppress(ConnectionError):  # closed before it was all sent
            connection.sendall(data)
        return rest_of(connection)


def header(size: int) -> bytes:
    return GET + b"X-A: " + b"a" * size + b"\r\nConnection: close\r\n\r\n"


def test_headers_up_to_the_bound_are_taken(address: tuple[str, int]) -> None:
    assert sent(address, header(60_000)).startswith(OK)


@pytest.mark.parametrize(
    "data",
    [header(70_000), GET + b"X: y\r\n" * 20_000 + b"\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"],
    ids=["one header", "many headers", "the path"],
)
def test_more_is_answered_431_and_closed(data: bytes, address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(data[:69_000])  # all of it read, so that no reset overtakes the answer
        answer = rest_of(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"content-length: %d" % len(body) in head
    assert b"urn:vault-credentials:error:headers-too-large" in body


def test_megabytes_of_headers_are_not_read(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection, pytest.raises(ConnectionError):
        connection.sendall(GET + b"X-A: " + b"a" * 60_000_000)


def test_a_large_body_is_not_taken_for_headers_nor_the_request_after_it(address: tuple[str, int]) -> None:
    post = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"b" * 1_000_000
    assert sent(address, post + header(100)).count(OK) == 2


GET_LARGE = GET.replace(b"GET /", b"GET /large") + b"\r\n"


def test_who_leaves_an_answer_unread_is_cut_off(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedProtocol, "unread_seconds", 0.5)
    with socket.create_connection(address) as connection:
        connection.sendall(GET_LARGE)
        time.sleep(3)
        got = rest_of(connection)
    assert got.startswith(OK)
    assert len(got) < LARGE


def test_the_least_that_is_unread_starts_the_clock(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    pause = LimitedProtocol.pause_writing

    def noted(self: LimitedProtocol) -> None:
        limits.append(self.transport.get_write_buffer_limits())
        pause(self)

    monkeypatch.setattr(LimitedProtocol, "pause_writing", noted)
    assert len(sent(address, GET_LARGE.replace(b"Host", b"Connection: close\r\nHost"))) > LARGE
    assert set(limits) == {(0, 0)}


def test_who_takes_an_answer_late_keeps_the_connection(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LimitedProtocol, "unread_seconds", 5.0)
    with socket.create_connection(address) as connection:
        connection.settimeout(20)
        connection.sendall(GET_LARGE)
        time.sleep(0.5)
        taken = len(connection.recv(65_536).partition(b"\r\n\r\n")[2])
        while taken < LARGE:
            taken += len(connection.recv(1_000_000))
        time.sleep(5.5)
        connection.sendall(GET + b"\r\n")
        assert connection.recv(1000).startswith(OK)


def test_trailers_are_bounded_too(address: tuple[str, int]) -> None:
    start = (
        GET.replace(b"GET /", b"POST /read") + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n"
    )
    assert sent(address, start + b"X-A: b\r\n\r\n").startswith(OK)
    assert OK not in sent(address, start + b"X-A: " + b"a" * 200_000)


@pytest.mark.parametrize(
    "start", [b"", b"G", GET, GET + b"X-A: "], ids=["nothing", "a byte", "a line", "half a header"]
)
def test_a_request_that_does_not_come_is_not_waited_for(start: bytes, address: tuple[str, int]) -> None:
    began = time.monotonic()
    assert sent(address, start) == b""
    assert 0.4 < time.monotonic() - began < 10


def test_dripping_headers_do_not_move_the_deadline(address: tuple[str, int]) -> None:
    began = time.monotonic()
    with socket.create_connection(address) as connection:
        connection.sendall(GET)
        with suppress(ConnectionError):
            while time.monotonic() - began < 20:
                connection.sendall(b"X-A: a\r\n")
                time.sleep(0.05)
    assert time.monotonic() - began < 10


def test_between_requests_a_connection_may_be_idle_for_longer_and_then_has_the_deadline_again(
    address: tuple[str, int],
) -> None:
    with socket.create_connection(address) as connection:
        connection.settimeout(5)
        for pause in (1.0, 0):
            connection.sendall(GET + b"\r\n")
            got = b""
            while not got.endswith(b"ok"):
                got += connection.recv(65536)
            time.sleep(pause)
        began = time.monotonic()
        connection.sendall(b"GET")
        assert rest_of(connection) == b""
        assert time.monotonic() - began < 10


def test_a_request_under_way_has_no_deadline_of_headers(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\na")
        time.sleep(1)
        connection.sendall(b"b")
        assert rest_of(connection).startswith(OK)


@pytest.mark.parametrize(
    "request_line", [b"GET /#x HTTP/1.1", b"GET / HTTP/2.0", b"GET / HTTP/1.1 x", b"nonsense"], ids=repr
)
def test_what_is_no_request_is_answered_400_but_not_in_the_middle_of_another_answer(
    request_line: bytes, address: tuple[str, int]
) -> None:
    wrong = request_line + b"\r\nHost: x\r\n\r\n"
    with socket.create_connection(address) as connection:
        connection.sendall(wrong)
        assert rest_of(connection).startswith(b"HTTP/1.1 400 ")
    with socket.create_connection(address) as connection:
        connection.sendall(GET.replace(b"/ ", b"/half ") + b"\r\n")
        got = b""
        while not got.endswith(b"half"):
            got += connection.recv(1024)
        connection.sendall(wrong)
        assert rest_of(connection) == b""


def test_chunks_in_http_1_0_are_refused(address: tuple[str, int]) -> None:
    """Somebody before us may know of none in it, and see another request in the body (RFC 9112, 6.1)."""
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST /read HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        assert rest_of(connection).startswith(b"HTTP/1.1 400 ")


def test_above_the_bound_of_connections_the_answer_is_503() -> None:
    with listening(limit_concurrency=3) as address, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(address))
        time.sleep(0.1)
        assert sent(address, header(1)).startswith(b"HTTP/1.1 503 ")


def test_above_the_last_bound_connections_are_closed_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedProtocol, "max_connections", 2)
    with listening() as address, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(address))
        time.sleep(0.1)
        assert sent(address, b"") == b""
    assert config(answering).limit_concurrency is not None


def test_the_service_has_these_bounds() -> None:
    assert config(answering).http is LimitedProtocol
    assert (LimitedProtocol.max_head_bytes, LimitedProtocol.head_seconds) == (65_536, 10.0)
    assert LimitedProtocol.unread_seconds == 30.0


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    def started(*_: object) -> None:
        raise AssertionError("the application was started")

    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"CREDENTIALS_PORT: port {port} cannot be used"):
            serve(started, port=port)


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid", "a" * 100 + ".b"])
def test_a_host_that_is_not_ours_is_said(host: str) -> None:
    with pytest.raises(ConfigurationError, match="CREDENTIALS_HOST"):
        bound(host, 0)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_localhost_is_the_usual_loopback_address(host: str) -> None:
    with bound(host, 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("listener", [lambda: bound("127.0.0.1", 0), lambda: launcher._bound(0)], ids=["serve", "run"])
async def test_what_connects_to_the_service_waits_for_no_acknowledgement(listener: Callable[[], socket.socket]) -> None:
    """asyncio turns Nagle's delay off where it sees that a socket is TCP's; else an answer in two parts takes 40 ms."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Noting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connection = transport.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    with listener() as listening_socket:
        # As uvicorn does.
        server = await asyncio.get_running_loop().create_server(Noting, sock=listening_socket)
        async with server:
            _, writer = await asyncio.open_connection(*listening_socket.getsockname())
            async with asyncio.timeout(5):
                assert await accepted
            writer.close()


def test_an_application_that_does_not_start_is_a_configuration_error() -> None:
    async def failing(_scope: object, _receive: object, _send: object) -> None:
        raise ConfigurationError

    with pytest.raises(ConfigurationError, match="did not start"):
        serve(failing, port=0)


@pytest.mark.parametrize("without", ["issuer", "port", "level"])
def test_the_command_ends_with_2_and_one_line(without: str) -> None:
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": "postgresql://u@127.0.0.1:1/d",
            "VAULT_ADDR": "http://127.0.0.1:1",
            "CREDENTIALS_PORT": str(taken.getsockname()[1]),
            "CREDENTIALS_LOG_LEVEL": "LOUD" if without == "level" else "INFO",
        }
        if without != "issuer":
            environment["CREDENTIALS_OIDC_ISSUER"] = "https://issuer.invalid"
        ran = subprocess.run(
            [sys.executable, "-c", "from service.cli import main; main()", "serve"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    setting = {"issuer": "CREDENTIALS_OIDC_ISSUER", "port": "CREDENTIALS_PORT", "level": "CREDENTIALS_LOG_LEVEL"}
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert setting[without] in ran.stderr
