"""Of a proxied call's fields those that are known go on, each way, and nothing that authenticates."""

import pytest

from service.api.proxy_headers import has_body, to_caller, to_provider
from service.errors import InvalidInput

Fields = list[tuple[bytes, bytes]]

# What callers, browsers, gateways and clouds send, and what providers take keys in.
NEVER = [
    "Authorization",
    "Proxy-Authorization",
    "Cookie",
    "APCA-API-KEY-ID",
    "APCA-API-SECRET-KEY",
    "X-Api-Key",
    "apiKey",
    "X-Vault-Token",
    "X-User-Id",
    "X-Require-Account-Type",
    "X-Request-Id",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "Forwarded",
    "Via",
    "Host",
    "Origin",
    "Referer",
    "User-Agent",
    "Expect",
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "HTTP2-Settings",
    "Max-Forwards",
    "Traceparent",
    "Baggage",
    "Sec-WebSocket-Key",
    "Accept-Encoding\x00",
]


@pytest.mark.parametrize("name", NEVER)
def test_this_field_of_the_callers_stays_here(name: str) -> None:
    fields: Fields = [(name.lower().encode("latin-1"), b"canary"), (b"accept", b"application/json")]
    assert to_provider(fields, with_body=True) == {"accept": "application/json"}


def test_what_is_about_the_content_goes_on() -> None:
    fields: Fields = [
        (b"accept", b"application/json"),
        (b"accept-encoding", b"gzip"),
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", b"12"),
        (b"if-none-match", b'"a"'),
        (b"range", b"bytes=0-9"),
        (b"idempotency-key", b"k"),
    ]
    assert to_provider(fields, with_body=True) == {name.decode(): value.decode() for name, value in fields}
    assert "content-length" not in to_provider(fields, with_body=False)


def test_lists_are_joined_and_what_may_be_there_once_is() -> None:
    assert to_provider([(b"accept", b"a/b"), (b"accept", b"c/d")], with_body=False) == {"accept": "a/b, c/d"}
    for name in (b"content-type", b"content-length", b"range", b"content-encoding", b"idempotency-key"):
        with pytest.raises(InvalidInput, match="must be given once") as caught:
            to_provider([(name, b"1"), (name, b"1")], with_body=True)
        assert caught.value.field == name.decode()


@pytest.mark.parametrize("value", [b"a\r\nX-Injected: 1", b"a\nb", b"a\rb", b"a\x00b", b"\xe9", b"a\x7f", b"\x0b"])
def test_a_value_that_could_begin_another_field_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_provider([(b"accept", value)], with_body=False)
    assert caught.value.field == "accept"
    assert "X-Injected" not in str(caught.value)


def test_what_connection_names_does_not_go_on() -> None:
    fields: Fields = [(b"connection", b"keep-alive, Accept , IF-MATCH"), (b"accept", b"a/b"), (b"if-match", b'"1"')]
    assert to_provider(fields, with_body=False) == {}
    answered: Fields = [(b"Connection", b"ETag"), (b"ETag", b'"1"')]
    assert to_caller(answered, status=200) == [(b"x-answered-by", b"provider")]


# --- whether there is a body ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], False),
        ([(b"content-length", b"0")], False),
        ([(b"content-length", b"000")], False),
        ([(b"content-length", b"1")], True),
        ([(b"transfer-encoding", b"chunked")], True),
        ([(b"transfer-encoding", b"Chunked")], True),
    ],
)
def test_a_body_is_what_its_framing_says(fields: Fields, expected: bool) -> None:
    assert has_body(fields) is expected


@pytest.mark.parametrize(
    "fields",
    [
        [(b"transfer-encoding", b"chunked"), (b"content-length", b"5")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"identity")],
        [(b"transfer-encoding", b"chunked, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"xchunked")],
        [(b"transfer-encoding", b"\x0bchunked")],
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"1, 1")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"0x1")],
        [(b"content-length", b"1_0")],
        [(b"content-length", b" 1")],
        [(b"content-length", b"")],
        [(b"content-length", b"0" * 5000 + b"1")],
        [(b"content-length", "١".encode())],
    ],
)
def test_framing_that_somebody_could_read_differently_is_refused(fields: Fields) -> None:
    with pytest.raises(InvalidInput) as caught:
        has_body(fields)
    assert caught.value.field in ("Transfer-Encoding", "Content-Length")


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Set-Cookie",
        "Location",
        "WWW-Authenticate",
        "Access-Control-Allow-Origin",
        "Strict-Transport-Security",
        "Server",
        "Cache-Control",
        "Expires",
        "Transfer-Encoding",
        "Connection",
        "Trailer",
        "Alt-Svc",
        "Via",
        "X-Answered-By",
        "Clear-Site-Data",
        "Refresh",
        "Content-Location",
        "Upgrade",
        "Proxy-Authenticate",
        "X-Powered-By",
        "Date",
    ],
)
def test_this_field_of_the_providers_stays_here(name: str) -> None:
    assert to_caller([(name.encode(), b"service")], status=200) == [(b"x-answered-by", b"provider")]


def test_what_is_about_the_content_and_the_limits_comes_back() -> None:
    fields: Fields = [
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"2"),
        (b"Content-Encoding", b"gzip"),
        (b"Retry-After", b"7"),
        (b"X-RateLimit-Remaining", b"1"),
        (b"X-Request-ID", b"their"),
    ]
    answered = dict(to_caller(fields, status=429))
    assert answered == {
        b"content-type": b"application/json",
        b"content-length": b"2",
        b"content-encoding": b"gzip",
        b"retry-after": b"7",
        b"x-ratelimit-remaining": b"1",
        b"x-provider-request-id": b"their",
        b"x-answered-by": b"provider",
    }


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(b"Content-Length", b"5")], 204),
        ([(b"Content-Length", b"5")], 304),
        ([(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")], 200),
        ([(b"Content-Length", b"5"), (b"content-length", b"6")], 200),
        ([(b"Content-Length", b"5, 5")], 200),
        ([(b"Content-Length", b"five")], 200),
    ],
)
def test_a_length_that_may_not_be_the_contents_is_left_out(fields: Fields, status: int) -> None:
    assert to_caller(fields, status=status) == [(b"x-answered-by", b"provider")]


def test_a_value_of_the_providers_that_could_begin_another_field_is_left_out() -> None:
    assert to_caller([(b"Link", b"a\r\nSet-Cookie: b"), (b"ETag", b"\xff")], status=200) == [
        (b"x-answered-by", b"provider")
    ]
