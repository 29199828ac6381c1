"""A proxied call's address is one that every parser reads alike, or it is refused."""

import re
from contextlib import suppress
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.modules.proxy_path import MAX_PATH, MAX_QUERY, check_proxy_query, is_proxy_path, parse_proxy_path

ID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
BEFORE = f"/v1/credentials/{ID}/proxy/".encode()

TAKEN = {
    b"v2/account": "/v2/account",
    b"v2/orders:by_client_order_id": "/v2/orders:by_client_order_id",
    b"v2/positions/BRK.B": "/v2/positions/BRK.B",
    b"v3/snapshot/options/SPY/O:SPY251219C00650000": "/v3/snapshot/options/SPY/O:SPY251219C00650000",
    b"v2/%61ccount": "/v2/account",  # another way to write the same (RFC 3986, 6.2.2.2)
    b"v2/%7Ea%2dz": "/v2/~a-z",
    b"v2/O%3ASPY": "/v2/O:SPY",
    b"a/.b/c..d": "/a/.b/c..d",
}
REFUSED = [
    b"",
    b"/",
    b"/v2/account",  # begins with an empty segment
    b"v2//account",
    b"v2/account/",
    b".",
    b"..",
    b"v2/./account",
    b"v2/../account",
    b"v2/.../account",
    b"v2/%2e%2e/account",
    b"v2/%2E/account",
    b"v2/.%2e/account",
    b"v2/%252e%252e/account",  # decoded twice it would be dots
    b"v2/%25%32%65/account",
    b"v2%2faccount",
    b"v2%2Faccount",
    b"v2%5caccount",
    b"v2\\account",
    b"v2/%c0%ae%c0%ae/account",  # overlong UTF-8 of dots
    b"v2/%e0%80%ae/account",
    b"v2/%c0%af",  # and of a slash
    b"v2/%ef%bc%8f",  # a slash of full width
    b"v2/\xef\xbc\x8faccount",
    b"v2/%u002e%u002e/account",
    b"v2/%00",
    b"v2/account%00.json",
    b"v2/account%0d%0aX-Injected:%201",
    b"v2/account%0a",
    b"v2/account%20HTTP/1.1",
    b"v2/account\r\n",
    b"v2/account\n",
    b"v2/account\t",
    b"v2/..;/account",
    b"v2;a=b/account",
    b"v2/account%3b",
    b"v2/account%3Fa=b",
    b"v2/account%23",
    b"v2/account?",
    b"v2/account#",
    b"v2/account%",
    b"v2/account%2",
    b"v2/account%zz",
    b"v2/%25",
    b"user@evil.example/v2",
    b"v2/%40evil.example",
    b"https://evil.example/v2/account",
    b"https:/evil.example/v2/account",
    b"https:evil.example:/v2",
    b"https%3a//evil.example",
    b"//evil.example/v2/account",
    b":8080/v2/account",
    b"*",
    b"v2/'",
    b'v2/"',
    b"v2/$(id)",
    b"v2/{a}",
    b"v2/[a]",
    b"v2/a&b",
    b"v2/a=b",
    b"v2/a!",
    b"v2/a|b",
    b"v2/a^b",
    b"v2/`",
    b"v2/<a>",
]


@pytest.mark.parametrize("sent", TAKEN, ids=repr)
def test_a_path_of_the_alphabet_is_taken_and_written_in_one_way(sent: bytes) -> None:
    address = parse_proxy_path(BEFORE + sent)
    assert (address.credential_id, address.path) == (ID, TAKEN[sent])


@pytest.mark.parametrize("sent", REFUSED, ids=repr)
def test_a_path_that_two_parsers_could_read_differently_is_refused(sent: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_proxy_path(BEFORE + sent)
    assert caught.value.field == "path"


def test_the_refusal_does_not_repeat_the_path() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_proxy_path(BEFORE + b"canary\\canary")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"/v1/credentials//proxy/v2/account",
        b"/v1/credentials/%2e%2e/proxy/v2/account",
        b"/v1/credentials/a%2Fb/proxy/v2/account",
        b"/v1/credentials/a/b/proxy/v2/account",
        b"/v1/credentials/../credentials/a/proxy/v2/account",
        b"/v1/credentials/a;b/proxy/v2/account",
        b"/v1/credentials/a%2Fproxy%2Fv2/account",
        b"/v1/credentials/a/%70roxy/v2/account",
        b"/v1/credentials/a/proxy",
        b"/v1/credentials/a\n/proxy/v2/account",
        b"//v1/credentials/a/proxy/v2/account",
        b"",
    ],
    ids=repr,
)
def test_what_is_before_the_providers_path_is_taken_as_it_was_sent(raw: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_proxy_path(raw)
    assert caught.value.field == "path"


def test_the_bounds_count_bytes_as_sent() -> None:
    assert len(parse_proxy_path(BEFORE + b"a" * MAX_PATH).path) == MAX_PATH + 1
    with pytest.raises(InvalidInput, match="at most 1024 bytes"):
        parse_proxy_path(BEFORE + b"a" * (MAX_PATH + 1))
    with pytest.raises(InvalidInput, match="at most 1024 bytes"):
        parse_proxy_path(BEFORE + b"%61" * 342)
    assert check_proxy_query(b"a" * MAX_QUERY)
    with pytest.raises(InvalidInput, match="at most 8192 bytes"):
        check_proxy_query(b"a" * (MAX_QUERY + 1))


@pytest.mark.parametrize("query", [b"", b"a=b&c=%20d", b"symbols=AAPL,MSFT", b"?a", b"a=/../b", b"%00=%0d%0a"])
def test_a_query_goes_on_as_it_is(query: bytes) -> None:
    assert check_proxy_query(query).encode() == query


@pytest.mark.parametrize("query", [b"a b", b"a\r\nb", b"a\n", b"\xc3\xa9", b"a\x00", b"a\x7f", b"a#b", b"a\tb"])
def test_a_query_that_could_end_the_request_line_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_proxy_query(query)
    assert caught.value.field == "query"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/v1/credentials/{ID}/proxy/v2/account", True),
        ("/v1/credentials//proxy/", True),
        ("/v1/credentials/../proxy/../../keys", True),
        (f"/v1/credentials/{ID}/proxy", False),
        (f"/v1/credentials/{ID}", False),
        (f"/V1/credentials/{ID}/proxy/v2", False),
        (f"/v1/credentials/{ID}/Proxy/v2", False),
        (f"/v1//credentials/{ID}/proxy/v2", False),
        (f"//v1/credentials/{ID}/proxy/v2", False),
        ("/v1/keys/proxy/v2", False),
    ],
)
def test_only_the_prefix_as_it_is_written_is_a_proxied_calls(path: str, expected: bool) -> None:
    assert is_proxy_path(path) is expected


_PIECES = st.sampled_from(
    [
        b"v2",
        b"account",
        b"/",
        b"//",
        b".",
        b"..",
        b"%2e",
        b"%2F",
        b"%5c",
        b"%25",
        b"%00",
        b"%0d%0a",
        b";",
        b":",
        b"\\",
        b"%c0%ae",
        b"@",
        b"?",
        b"#",
        b"%",
        b"a",
        b"%61",
        b"%3a",
        b"https:",
        b"\xff",
        b" ",
        b"-",
        b"~",
        b"+",
        b",",
    ]
)
_SENT = st.one_of(st.binary(max_size=40), st.lists(_PIECES, max_size=8).map(b"".join))


@given(_SENT)
@example(b"v2/account")
@example(b"%61")
def test_whatever_is_taken_reads_back_as_itself_and_has_no_forbidden_part(sent: bytes) -> None:
    try:
        path = parse_proxy_path(BEFORE + sent).path
    except InvalidInput:
        return
    assert re.fullmatch(r"(/[A-Za-z0-9._~:,+-]+)+", path)
    assert unquote(path) == path
    assert all(segment.strip(".") for segment in path[1:].split("/"))
    assert not any(segment.startswith(":") or segment.endswith(":") for segment in path[1:].split("/"))
    assert parse_proxy_path(BEFORE + path[1:].encode()).path == path
    assert len(path) <= len(sent) + 1


@given(_SENT)
def test_any_bytes_are_taken_or_refused_and_nothing_else(sent: bytes) -> None:
    for raw in (sent, BEFORE + sent, b"/v1/credentials/" + sent + b"/proxy/v2"):
        with suppress(InvalidInput):
            parse_proxy_path(raw)
    with suppress(InvalidInput):
        check_proxy_query(sent)
