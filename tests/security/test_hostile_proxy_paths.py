"""What hostile proxy requests get: raw bytes over a socket to the served application, and a provider that gets nothing.

`pytest -s` prints the table with what each request got.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from service.http_protocol import LimitedProtocol
from tests.proxying import Held, Proxied, events, proxied, raw
from tests.rest import Headers
from tests.support import Stack
from tests.written import Connection

# A request's first line, with `{P}` for the credential's proxy, `{C}` for its id; the status; the problem, and which
# field it names. `400 -` is the HTTP parser's, which answers with plain text before the application sees anything;
# `404 no-such-resource` means that it is no proxied call's address at all.
PATHS = r"""
GET {P}/../../../../v2/account                              422 invalid-input path
GET {P}/v2/../account                                       422 invalid-input path
GET {P}/v2/./account                                        422 invalid-input path
GET {P}/..                                                  422 invalid-input path
GET {P}/%2e%2e/v2/account                                   422 invalid-input path
GET {P}/v2/%2E%2E/account                                   422 invalid-input path
GET {P}/v2/.%2e/account                                     422 invalid-input path
GET {P}/v2/%252e%252e/account                               422 invalid-input path
GET {P}/v2/%25252e/account                                  422 invalid-input path
GET {P}/v2/..;/account                                      422 invalid-input path
GET {P}/v2/..%3b/account                                    422 invalid-input path
GET {P}/v2/.../account                                      422 invalid-input path
GET {P}/v2/..%5c..%5caccount                                422 invalid-input path
GET {P}/v2\account                                          422 invalid-input path
GET {P}/v2%2faccount                                        422 invalid-input path
GET {P}/v2%2Faccount                                        422 invalid-input path
GET {P}%2Fv2/account                                        422 invalid-input path
GET {P}//v2/account                                         422 invalid-input path
GET {P}/v2//account                                         422 invalid-input path
GET {P}/v2/account/                                         422 invalid-input path
GET {P}/                                                    422 invalid-input path
GET {P}                                                     404 no-such-resource
GET {P}/v2/%c0%ae%c0%ae/account                             422 invalid-input path
GET {P}/v2/%e0%80%ae/account                                422 invalid-input path
GET {P}/v2%c0%afaccount                                     422 invalid-input path
GET {P}/v2%ef%bc%8faccount                                  422 invalid-input path
GET {P}/v2/%u002e%u002e/account                             422 invalid-input path
GET {P}/v2/account%00                                       422 invalid-input path
GET {P}/v2/account%00.json                                  422 invalid-input path
GET {P}/v2/account%0d%0aX-Injected:%201                     422 invalid-input path
GET {P}/v2/account%0aHost:evil.example                      422 invalid-input path
GET {P}/v2/account%20HTTP/1.1%0d%0a                         422 invalid-input path
GET {P}/v2/account%09                                       422 invalid-input path
GET {P}/v2/account%7f                                       422 invalid-input path
GET {P}/v2/account%                                         422 invalid-input path
GET {P}/v2/account%2                                        422 invalid-input path
GET {P}/v2/account%zz                                       422 invalid-input path
GET {P}/v2/account;a=b                                      422 invalid-input path
GET {P}/v2/account%3Fa=b                                    422 invalid-input path
GET {P}/v2/account%23                                       422 invalid-input path
GET {P}/v2/account#/../../v1                                400 -
GET {P}/v2/account?a=b#c                                    400 -
GET {P}/https://evil.example/v2/account                     422 invalid-input path
GET {P}/https:/evil.example/v2/account                      422 invalid-input path
GET {P}/http:evil.example/v2/account                        403 proxy-refused
GET {P}///evil.example/v2/account                           422 invalid-input path
GET {P}/@evil.example/v2/account                            422 invalid-input path
GET {P}/user:pass@evil.example/v2                           422 invalid-input path
GET {P}/.evil.example/v2/account                            403 proxy-refused
GET {P}/:8080/v2/account                                    422 invalid-input path
GET {P}/*                                                   422 invalid-input path
GET {P}/{LONG}                                              422 invalid-input path
GET {P}/v2/stocks/{TICKER}/bars                             403 proxy-refused
GET {P}/V2/account                                          403 proxy-refused
GET {P}/v2/Account                                          403 proxy-refused
GET {P}/v2/wallets                                          403 proxy-refused
POST {P}/v2/wallets/transfers                               403 proxy-refused
GET {P}/v1/accounts                                         403 proxy-refused
GET {P}/v2/account?{LONG_QUERY}                             422 invalid-input query
GET /v1/credentials//proxy/v2/account                       422 invalid-input path
GET /v1/credentials/../proxy/v2/account                     422 invalid-input path
GET /v1/credentials/%2e%2e/proxy/v2/account                 422 invalid-input path
GET /v1/credentials/{C}%2Fproxy%2Fv2/account                422 invalid-input path
GET /v1/credentials/{C}%2Fproxy/v2/account                  422 invalid-input path
GET /v1/credentials/{C}/%70roxy/v2/account                  422 invalid-input path
GET /v1/credentials/{C};a/proxy/v2/account                  422 invalid-input path
GET /v1/credentials/{C}%00/proxy/v2/account                 422 invalid-input path
GET /v1/credentials/{C}%20/proxy/v2/account                 422 invalid-input path
GET /v1/credentials/{C}/x/proxy/v2/account                  422 invalid-input path
GET /v1/credentials/../credentials/{C}/proxy/v2/account     422 invalid-input path
GET /v1/./credentials/{C}/proxy/v2/account                  404 no-such-resource
GET /v1//credentials/{C}/proxy/v2/account                   404 no-such-resource
GET //v1/credentials/{C}/proxy/v2/account                   404 no-such-resource
GET /V1/credentials/{C}/proxy/v2/account                    404 no-such-resource
GET /v1/Credentials/{C}/proxy/v2/account                    404 no-such-resource
GET /v1/credentials/{C}/PROXY/v2/account                    404 no-such-resource
GET /v1/credentials/{C}/proxy%00/v2/account                 404 no-such-resource
GET http://evil.example/v2/account                          404 no-such-resource
GET https://evil.example{P}/../../v2/account                422 invalid-input path
GET evil.example:443                                        400 -
CONNECT evil.example:443                                    400 -
CONNECT {P}/v2/account                                      405 method-not-allowed
OPTIONS *                                                   404 no-such-resource
TRACE {P}/v2/account                                        405 method-not-allowed
PROPFIND {P}/v2/account                                     405 method-not-allowed
get {P}/v2/account                                          400 -
"""

# Bytes that a line of text can't show, as Python writes them; and the status.
BYTES = r"""
GET {P}/v2/\x00account HTTP/1.1                             400
GET {P}/v2/ac count HTTP/1.1                                400
GET {P}/v2/ac\tcount HTTP/1.1                               400
GET {P}/v2/ac\rcount HTTP/1.1                               400
GET {P}/v2/ac\ncount HTTP/1.1                               400
GET {P}/v2/account\r\nX-Injected: 1\r\n HTTP/1.1            400
GET {P}/v2/\xc0\xaf HTTP/1.1                                400
GET {P}/v2/\xef\xbc\x8f HTTP/1.1                            400
GET {P}/v2/\x7f HTTP/1.1                                    400
GET {P}/v2/account?a=\xff HTTP/1.1                          400
GET {P}/v2/account?a=b c HTTP/1.1                           400
GET {P}/v2/account HTTP/2.0                                 400
GET {P}/v2/account HTTP/1.2                                 400
GET {P}/v2/account HTTP/0.9                                 400
GET {P}/v2/account                                          400
GET {P}/v2/account HTTP/1.1 HTTP/1.1                        400
GET  {P}/v2/account HTTP/1.1\x0b                            400
"""

# Fields beside the token, then the body: what each gets as a POST of an order.
FRAMING = r"""
Content-Length: 6\r\nTransfer-Encoding: chunked | 0\r\n\r\nGET / | 400 -
Transfer-Encoding: chunked\r\nContent-Length: 6 | 0\r\n\r\nGET / | 400 -
Transfer-Encoding: gzip, chunked | 2\r\n{}\r\n0\r\n\r\n | 422 invalid-input Transfer-Encoding
Transfer-Encoding: chunked, gzip | 2\r\n{}\r\n0\r\n\r\n | 400 -
Transfer-Encoding: identity | {} | 400 -
Transfer-Encoding: xchunked | 0\r\n\r\n | 400 -
Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked | 0\r\n\r\n | 400 -
Transfer-Encoding : chunked | 0\r\n\r\n | 400 -
Transfer-Encoding: \x0bchunked | 0\r\n\r\n | 400 -
Transfer-Encoding: chunked | 2\n{}\n0\n\n | 400 -
Transfer-Encoding: chunked | -2\r\n{}\r\n0\r\n\r\n | 400 -
Transfer-Encoding: chunked | 0x2\r\n{}\r\n0\r\n\r\n | 400 -
Transfer-Encoding: chunked | ffffffffffffffff2\r\n{}\r\n0\r\n\r\n | 400 -
Content-Length: 2\r\nContent-Length: 2 | {} | 400 -
Content-Length: 2\r\nContent-Length: 3 | {} | 400 -
Content-Length: 2, 2 | {} | 400 -
Content-Length: +2 | {} | 400 -
Content-Length: -2 | {} | 400 -
Content-Length: 0x2 | {} | 400 -
Content-Length: 18446744073709551618 | {} | 400 -
Content-Length: 0000000000000000000002 | {} | 422 invalid-input Content-Length
Content-Length: 2\r\n folded | {} | 400 -
Content-Length: 2\r\nX: a\x00b | {} | 400 -
Content-Length: 2\r\nX: a\rb | {} | 400 -
Content-Length: 2\r\nX\r: b | {} | 400 -
Content-Length: 2\r\nUpgrade: h2c\r\nConnection: Upgrade | {} | 422 invalid-input Upgrade
Content-Length: 2\r\nUpgrade: websocket | {} | 422 invalid-input Upgrade
Content-Length: 2\r\nContent-Type: a\r\nContent-Type: b | {} | 422 invalid-input content-type
Content-Length: 2\r\nContent-Type: \xff | {} | 422 invalid-input content-type
Content-Length: 2\r\nX-User-Id: somebody | {} | 403 permission-denied
Content-Length: 2\r\nAuthorization: Bearer another | {} | 401 authentication-failed
Content-Length: 2\r\nX-Require-Account-Type: paper\r\nX-Require-Account-Type: live | {} | 422 invalid-input X-Require-Account-Type
"""  # noqa: E501 - a table is read by its rows

_told: list[str] = []


@pytest.fixture(scope="module")
async def service(stack: Stack, bearer: Callable[..., Headers]) -> AsyncIterator[Proxied]:
    async with proxied(stack, bearer) as made:
        yield made


@pytest.fixture(scope="module")
async def held(service: Proxied) -> Held:
    return await service.held()


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    """Printed when all of it has run."""
    yield
    print("\n" + "\n".join(_told))  # noqa: T201 - it is what `-s` is for


def _bytes(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def _filled(text: str, held: Held) -> str:
    filled = {"P": held.address("").rstrip("/"), "C": held.id, "LONG": "a" * 1025, "TICKER": "A" * 65}
    for name, value in {**filled, "LONG_QUERY": "a" * 8193}.items():
        text = text.replace(f"{{{name}}}", value)
    return text


async def _asked(service: Proxied, shown: str, expected: str, request: bytes) -> None:
    """Sends it, and takes note of what it got; nothing may have reached a provider."""
    service.alpaca.reset()
    answer = await raw(service.port, request)
    got = str(answer.status)
    if b"application/problem+json" in answer.head:
        told = json.loads(answer.body)
        fields = "".join(f" {each['field']}" for each in told.get("errors", ()))
        got += f" {told['type'].rpartition(':')[2]}{fields}"
        assert b"canary" not in answer.body
    elif answer.status == 400:
        got += " -"
        assert answer.body == b"Invalid HTTP request received."
    _told.append(f"{shown:<72} {got}")
    assert got == expected
    assert service.seen() == 0
    assert answer.head.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("line", PATHS.strip().splitlines())
async def test_a_hostile_target_gets_this_and_the_provider_nothing(line: str, service: Proxied, held: Held) -> None:
    method, target, *expected = line.split()
    head = f"{method} {_filled(target, held)} HTTP/1.1\r\nHost: x\r\nAuthorization: {held.headers['Authorization']}"
    request = head.encode() + b"\r\nConnection: close\r\n\r\n"
    assert len(request) < LimitedProtocol.max_head_bytes
    await _asked(service, f"{method} {target}", " ".join(expected), request)


@pytest.mark.parametrize("line", BYTES.strip().splitlines())
async def test_bytes_that_are_no_target_get_this(line: str, service: Proxied, held: Held) -> None:
    first, expected = line.rsplit(maxsplit=1)
    head = _bytes(_filled(first.rstrip(), held))
    rest = f"\r\nHost: x\r\nAuthorization: {held.headers['Authorization']}\r\nConnection: close\r\n\r\n".encode()
    await _asked(service, first.rstrip(), f"{expected} -", head + rest)


@pytest.mark.parametrize("line", FRAMING.strip().splitlines())
async def test_framing_and_fields_that_could_be_read_in_two_ways_get_this(
    line: str, service: Proxied, held: Held
) -> None:
    fields, body, expected = (each.strip() for each in line.split(" | "))
    head = f"POST {held.address('v2/orders')} HTTP/1.1\r\nHost: x\r\nAuthorization: {held.headers['Authorization']}\r\n"
    request = head.encode() + _bytes(fields) + b"\r\nConnection: close\r\n\r\n" + _bytes(body)
    await _asked(service, f"{fields} | {body}", expected, request)


async def test_a_body_with_a_method_that_reads_is_refused(service: Proxied, held: Held) -> None:
    for method in ("GET", "HEAD"):
        head = f"{method} {held.address('v2/account')} HTTP/1.1\r\nHost: x\r\n"
        fields = f"Authorization: {held.headers['Authorization']}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        answer = await raw(service.port, (head + fields).encode())
        assert answer.status == 422
        assert service.seen() == 0


async def test_the_absolute_form_names_no_other_host(service: Proxied, held: Held) -> None:
    """A server has to take it (RFC 9112, 3.2.2). Whatever host it names, the call goes to the provider's."""
    service.alpaca.reset()
    head = f"GET http://evil.example{held.address('v2/account')} HTTP/1.1\r\nHost: evil.example\r\n"
    fields = f"Authorization: {held.headers['Authorization']}\r\nConnection: close\r\n\r\n"
    answer = await raw(service.port, (head + fields).encode())
    assert answer.status == 200
    (seen,) = service.alpaca.seen
    assert (seen.target, seen.headers["host"]) == ("/v2/account", service.alpaca.url.removeprefix("http://"))


async def test_none_of_it_failed_after_the_keys_were_decrypted(held: Held, owner_conn: Connection) -> None:
    """Runs last. What was granted and not refused by the table of endpoints had a body that made no sense, or was the
    absolute form's; the rest was refused before the credential was looked for."""
    assert set(await events(owner_conn, held.id)) <= {
        ("proxy", "granted", None),
        ("proxy", "failed", "proxy_refused"),
        ("trade", "granted", None),
        ("trade", "failed", "proxy_refused"),
    }
