"""A proxied call is sent once, at every layer; what became of it is told honestly; TLS to a provider is verified."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.doubles.alpaca import AlpacaDouble
from tests.doubles.certificate_authority import CertificateAuthority
from tests.doubles.scripted_server import not_http_answer, reset_answer
from tests.proxying import ACCOUNT, ORDER, Proxied, proxied, raw, refusal
from tests.rest import Headers
from tests.support import Stack
from tests.written import Connection

READ_LOST, WRITE_LOST = (503, "provider-unavailable"), (502, "provider-outcome-unknown")
CALLS = [
    ("GET", ACCOUNT, READ_LOST),
    ("HEAD", ACCOUNT, READ_LOST),
    ("POST", "v2/orders", WRITE_LOST),
    ("PUT", "v2/watchlists:by_name", WRITE_LOST),
    ("PATCH", "v2/account/configurations", WRITE_LOST),
    ("DELETE", "v2/orders", WRITE_LOST),
]


@pytest.fixture(scope="module")
async def service(stack: Stack, bearer: Callable[..., Headers]) -> AsyncIterator[Proxied]:
    async with proxied(stack, bearer) as made:
        yield made


async def _told(service: Proxied, held: object, method: str, path: str) -> tuple[int, str]:
    answer = await service.call(held, method, path)  # type: ignore[arg-type]
    if method == "HEAD":
        assert answer.headers["x-answered-by"] == "service"
        return answer.status_code, READ_LOST[1]
    return refusal(answer)


@pytest.mark.parametrize(("method", "path", "expected"), CALLS)
@pytest.mark.parametrize("what", ["reset", "nonsense"])
async def test_a_call_that_was_sent_and_not_answered_is_not_sent_again(
    what: str, method: str, path: str, expected: tuple[int, str], service: Proxied
) -> None:
    held = await service.held()
    service.alpaca.reset()
    service.alpaca.script(reset_answer if what == "reset" else not_http_answer)
    assert await _told(service, held, method, path) == expected
    assert [(each.method, each.target) for each in service.alpaca.seen] == [(method, f"/{path}")]


@pytest.mark.parametrize(("method", "path", "expected"), CALLS)
async def test_nor_over_a_kept_connection_that_the_provider_closes_under_it(
    method: str, path: str, expected: tuple[int, str], stack: Stack, bearer: Callable[..., Headers]
) -> None:
    """aiohttp sends idempotent methods again by itself where a connection that was kept breaks."""
    async with _ClosesAtTheSecond() as provider, proxied(stack, bearer, alpaca_base_url=provider.url) as service:
        held = await service.held()
        assert (await service.call(held, "GET")).status_code == 200
        assert await _told(service, held, method, path) == expected
        assert provider.heads == [b"GET /v2/account", f"{method} /{path}".encode()]
        assert provider.connections == 1


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_calls(
    stack: Stack, bearer: Callable[..., Headers]
) -> None:
    async with _AnswersTwice() as provider, proxied(stack, bearer, alpaca_base_url=provider.url) as service:
        held, other = await service.held(), await service.held()
        assert (await service.call(held, "GET")).json() == {"first": 1}
        await provider.said_more.wait()
        await asyncio.sleep(0.5)  # so that it has come
        answer = await service.call(other, "POST", "v2/orders", json=ORDER)
        assert refusal(answer) == (503, "provider-unavailable")
        assert provider.heads == [b"GET /v2/account"]  # so the order was not sent
        assert (await service.call(other, "GET")).json() == {"first": 2}


async def test_what_could_not_be_sent_is_said_not_to_have_been(
    stack: Stack, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    async with AlpacaDouble() as gone:
        address = gone.url
    async with proxied(stack, bearer, alpaca_base_url=address) as service:
        held = await service.held()
        for method, path, _ in CALLS:
            if method != "HEAD":
                assert refusal(await service.call(held, method, path)) == (503, "provider-unavailable")


async def test_an_order_that_is_sent_once_is_filled_once(service: Proxied) -> None:
    held = await service.held()
    book = service.alpaca.books[held.keys]
    answer = await service.call(held, "POST", "v2/orders", json=ORDER)
    assert (answer.status_code, len(book.orders)) == (200, 1)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["none", "another authority's", "another name's"])
async def test_a_provider_is_who_its_certificate_says(
    trouble: str, stack: Stack, bearer: Callable[..., Headers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, other = CertificateAuthority(tmp_path, "trusted"), CertificateAuthority(tmp_path, "other")
    issuer = other if trouble == "another authority's" else trusted
    addresses = () if trouble == "another name's" else ("127.0.0.1",)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.certificate_file))
    double = AlpacaDouble(issuer.server_context("provider", addresses=addresses))
    async with proxied(stack, bearer, alpaca=double) as service:
        held = await service.held()
        for method, path in (("GET", ACCOUNT), ("POST", "v2/orders")):
            answer = await service.call(held, method, path, json=ORDER if method == "POST" else None)
            if trouble == "none":
                assert (answer.status_code, answer.headers["x-answered-by"]) == (200, "provider")
            else:
                assert refusal(answer) == (503, "provider-unavailable")
        assert len(double.seen) == (2 if trouble == "none" else 0)


# --- framing ----------------------------------------------------------------------------------------------------------


async def test_trailers_are_no_headers(service: Proxied) -> None:
    """uvicorn appends them to the headers; a gateway before us would not have looked at them."""
    held, other = await service.held(), await service.held()
    service.alpaca.reset()
    chunk = b"2\r\n{}\r\n0\r\n"
    line = f"POST {held.address('v2/orders')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
    token = f"Authorization: {held.headers['Authorization']}\r\n".encode()
    chunked = b"Transfer-Encoding: chunked\r\n"
    answer = await raw(service.port, line + chunked + b"\r\n" + chunk + token + b"\r\n")
    assert answer.status == 401
    robot = f"Authorization: {service.bearer('orchestrator', 'robot')['Authorization']}\r\n".encode()
    user = f"X-User-Id: {held.user_id}\r\n".encode()
    answer = await raw(service.port, line + robot + chunked + b"\r\n" + chunk + user + b"\r\n")
    assert answer.status == 422  # it names nobody
    theirs = f"X-User-Id: {other.user_id}\r\n".encode()
    answer = await raw(service.port, line + robot + theirs + chunked + b"\r\n" + chunk + user + b"\r\n")
    assert answer.status == 404
    assert not service.alpaca.seen
    answer = await raw(service.port, line + token + chunked + b"\r\n" + chunk + b"If-Match: 1\r\n\r\n")
    assert answer.status == 422  # Alpaca's, of the order
    (seen,) = service.alpaca.seen
    assert (seen.body, "if-match" in seen.headers) == (b"{}", False)


class _Provider:
    """A provider that speaks as its subclass says, and notes what it was asked."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self.said_more = asyncio.Event()

    async def __aenter__(self) -> "_Provider":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head.split(b" HTTP/1.1", 1)[0])
                await self.answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    def said(self, body: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class _ClosesAtTheSecond(_Provider):
    async def answer(self, writer: asyncio.StreamWriter) -> None:
        if len(self.heads) > 1:
            raise ConnectionError
        writer.write(self.said(b"{}"))


class _AnswersTwice(_Provider):
    async def answer(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self.said(b'{"first": %d}' % len(self.heads)))
        await writer.drain()
        if len(self.heads) == 1:
            await asyncio.sleep(0.3)  # the connection has been given back by then
            writer.write(self.said(b'{"somebody": "else\'s"}'))
            await writer.drain()
            self.said_more.set()
