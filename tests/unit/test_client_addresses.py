"""Where the client's requests go, and what it takes for an answer."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator

import httpx
import pytest

from service.client import CredentialsClient, exchange
from service.errors import ConfigurationError, InvalidInput, PermissionDenied, ServiceError, UnexpectedAnswer
from tests.unit.client_double import GET, ID, Doing, Piece, Service, client_of, held_by_frames, metadata, told


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://service.test",
            "service.test",
            "ftp://service.test",
            "https://",
            "",
            "https://user:pass@service.test",
        ),
        *(
            "https://service.test/?a=b",
            "https://service.test/#x",
            "https://service.test:0",
            "https://service.test:70000",
        ),
        *(
            "https://service.test\\@other.test",
            "https://service.test/a b",
            "https://sërvice.test",
            "http://127.0.0.1.nip.io",
        ),
    ],
)
def test_an_address_that_could_lead_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        CredentialsClient(url, token=lambda: "token")


@pytest.mark.parametrize(
    "url",
    ["https://service.test/", "https://service.test/behind/a/prefix", "http://127.0.0.1:8000", "http://[::1]:8000"],
)
async def test_requests_go_below_the_base_address(url: str) -> None:
    service = Service(GET)
    async with CredentialsClient(url, token=lambda: "token", transport=service) as client:
        await client.get(ID)
    assert str(service.seen[0].url) == f"{url.rstrip('/')}/v1/credentials/{ID}"


def test_tls_that_verifies_nothing_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    for mode in (ssl.CERT_REQUIRED, ssl.CERT_NONE):
        context.verify_mode = mode
        with pytest.raises(ConfigurationError, match="tls: must verify"):
            CredentialsClient("https://service.test", token=lambda: "token", tls=context)


async def test_a_redirect_is_not_followed() -> None:
    service = Service(httpx.Response(307, headers={"Location": "https://elsewhere.test/"}))
    async with client_of(service) as client:
        with pytest.raises(UnexpectedAnswer):
            await client.get(ID)
        with pytest.raises(UnexpectedAnswer):
            await client.proxy(ID, "GET", "v2/account")
    assert {request.url.host for request in service.seen} == {"service.test"}


async def test_a_huge_answer_is_not_read_to_its_end() -> None:
    sent = 0

    class Long(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 4 * exchange.MAX_ANSWER:
                sent += 65_536
                yield bytes(65_536)

    class Huge(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Long(), headers={"X-Answered-By": "provider"})

    async with client_of(Huge()) as client:
        with pytest.raises(UnexpectedAnswer) as raised:
            await client.get(ID)
        assert not [each for each in held_by_frames(raised.value) if isinstance(each, httpx.Response | httpx.Request)]
        assert sent <= exchange.MAX_ANSWER + 65_536
        sent = 0
        with pytest.raises(UnexpectedAnswer):
            await client.proxy(ID, "GET", "v2/account", max_answer=100_000)
        assert sent <= 200_000


async def test_a_packed_answer_is_not_unpacked() -> None:
    service = Service(
        httpx.Response(200, content=gzip.compress(bytes(1_000_000)), headers={"X-Answered-By": "provider"})
    )
    service.outcomes[0].headers["Content-Encoding"] = "gzip"  # type: ignore[union-attr]
    async with client_of(service) as client:
        answer = await client.proxy(ID, "GET", "v2/account")
    assert len(answer.content) < 10_000
    assert service.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 1}', b"\xff", b"x" * 100])
async def test_a_success_that_is_not_this_services_is_an_error(body: bytes) -> None:
    async with client_of(Service(httpx.Response(200, content=body))) as client:
        with pytest.raises(UnexpectedAnswer):
            await client.get(ID)


async def test_cookies_are_neither_kept_nor_sent() -> None:
    service = Service(httpx.Response(200, json=metadata(), headers={"Set-Cookie": "a=b; Path=/"}))
    async with client_of(service) as client:
        await client.get(ID)
        await client.get(ID)
    assert all("cookie" not in request.headers for request in service.seen)


async def test_a_user_id_goes_as_utf_8() -> None:
    service = Service(GET)
    async with client_of(service) as client:
        await client.get(ID, user_id="jürgen")
    assert dict(service.seen[0].headers.raw)[b"X-User-Id"] == "jürgen".encode()


@pytest.mark.parametrize(
    ("doing", "field"),
    [
        (lambda client: client.get("no uuid"), "credential_id"),
        (lambda client: client.get(f"{ID}/events"), "credential_id"),
        (lambda client: client.get(ID, user_id="a\r\nb"), "user_id"),
        (lambda client: client.get(ID, user_id=" alice"), "user_id"),
        (lambda client: client.get(ID, user_id=""), "user_id"),
        (lambda client: client.delete(ID, if_match='"1"\r\nX: y'), "if_match"),
        (lambda client: client.proxy(ID, "get", "v2/account"), "method"),
        (lambda client: client.proxy(ID, "GET\r\n", "v2/account"), "method"),
        (lambda client: client.proxy(ID, "GET", "v2/account", headers={"Authorization": "Bearer x"}), "headers"),
        (lambda client: client.proxy(ID, "GET", "v2/account", headers={"X-USER-ID": "bob"}), "headers"),
        (lambda client: client.proxy(ID, "GET", "v2/account", headers={"Host": "x"}), "headers"),
        (lambda client: client.proxy(ID, "GET", "v2/account", headers={"X": "a\r\nY: b"}), "headers"),
        (lambda client: client.proxy(ID, "GET", "v2/account", headers={"X: y\r\nZ": "a"}), "headers"),
        (lambda client: client.proxy(ID, "GET", "v2/account", headers={"X": "ü"}), "headers"),
        (lambda client: client.proxy(ID, "POST", "v2/orders", json={}, content=b"{}"), "content"),
        (lambda client: client.proxy(ID, "GET", "x", require_account_type="demo"), "require_account_type"),
    ],
)
async def test_what_can_not_be_asked_for_is_refused_before_anything_is_sent(doing: Doing, field: str) -> None:
    service = Service(GET)
    async with client_of(service) as client:
        with pytest.raises(InvalidInput) as raised:
            await doing(client)
    assert raised.value.field == field
    assert service.seen == []


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "//v2", "v2//orders", "v2/orders/", "../keys", "v2/../../keys", "v2/./orders", "v2/%2e%2e/x"),
        *("v2/%2Forders", "https://elsewhere.test/x", "v2/orders?a=b", "v2/orders#x", "v2/or ders", "v2\\orders"),
        *("v2/orders\r\nX: y", "v2/ördérs", "v2/orders\x00", "v2;x=y/orders", "\ud800", "v2/%252e%252e/x"),
    ],
)
async def test_a_path_that_could_be_read_in_two_ways_is_refused_before_anything_is_sent(path: str) -> None:
    service = Service(GET)
    async with client_of(service) as client:
        with pytest.raises(InvalidInput) as raised:
            await client.proxy(ID, "GET", path)
    assert raised.value.field == "path"
    assert service.seen == []


@pytest.mark.parametrize("path", ["v2/orders", "/v2/orders", "v2/orders:by_client_order_id", "v2/positions/BRK.B"])
async def test_a_providers_path_goes_on_as_it_is(path: str) -> None:
    service = Service(httpx.Response(200, headers={"X-Answered-By": "provider"}))
    async with client_of(service) as client:
        await client.proxy(ID, "GET", path, params={"status": "open", "symbols": "A&B"})
    wanted = f"/v1/credentials/{ID}/proxy/{path.removeprefix('/')}?status=open&symbols=A%26B"
    assert service.seen[0].url.raw_path.decode() == wanted


async def test_an_error_of_the_services_own_is_raised_by_a_proxied_call() -> None:
    async with client_of(Service(told(403, "permission-denied"))) as client:
        with pytest.raises(PermissionDenied):
            await client.proxy(ID, "POST", "v2/orders", json={})
        with pytest.raises(PermissionDenied):
            async with client.proxy_stream(ID, "POST", "v2/orders", json={}):
                raise AssertionError
    async with client_of(Service(httpx.Response(404))) as client:
        with pytest.raises(ServiceError):
            await client.proxy(ID, "GET", "v2/account")


async def test_no_more_requests_are_under_way_than_it_was_made_for() -> None:
    under_way, most, go = 0, 0, asyncio.Event()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _request: httpx.Request) -> httpx.Response:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await go.wait()
            under_way -= 1
            return httpx.Response(200, stream=Piece(GET.content))

    async with client_of(Slow(), max_connections=3) as client:
        tasks = [asyncio.create_task(client.get(ID)) for _ in range(10)]
        while under_way < 3:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        go.set()
        await asyncio.gather(*tasks)
    assert most == 3
