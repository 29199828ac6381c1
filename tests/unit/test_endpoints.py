"""Providers' tables of endpoints: what is in them may be called, at its host, and nothing else."""

import time

import pytest

from service.errors import InvalidInput, ProxyRefused
from service.providers.alpaca import _ENDPOINTS as ALPACA
from service.providers.endpoints import Endpoints, names_in_query
from service.providers.polygon import _ENDPOINTS as POLYGON

TABLE: Endpoints[str] = Endpoints(
    {
        "a": """
        GET POST  /v2/orders
        GET       /v2/orders/{order_id}
        DELETE    /v2/orders:by_name
        """,
        "b": "GET  /v2/stocks/{symbol}/bars",
    }
)


@pytest.mark.parametrize(
    ("method", "path", "host"),
    [
        ("GET", "/v2/orders", "a"),
        ("HEAD", "/v2/orders", "a"),
        ("POST", "/v2/orders", "a"),
        ("GET", "/v2/orders/61e69015-8549-4bfd-b9c3-01e75843f47d", "a"),
        ("DELETE", "/v2/orders:by_name", "a"),
        ("GET", "/v2/stocks/BRK.B/bars", "b"),
        ("GET", "/v2/stocks/O:SPY251219C00650000/bars", "b"),
    ],
)
def test_a_line_of_the_table_is_found(method: str, path: str, host: str) -> None:
    assert TABLE.host(method, path) == host


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v2/orders"),
        ("PUT", "/v2/orders"),
        ("OPTIONS", "/v2/orders"),
        ("get", "/v2/orders"),
        ("GET", "/v2/orders/"),
        ("GET", "/v2/orders/.."),
        ("GET", "/v2/orders/.hidden"),
        ("GET", "/v2/orders/-a"),
        ("GET", "/v2/orders/a/b"),
        ("GET", "/v2/orders/a%2Fb"),
        ("GET", "/v2/orders/" + "a" * 65),
        ("GET", "/v2/orders/é"),
        ("GET", "/v2/orders\n"),
        ("GET", "/x/v2/orders"),
        ("GET", "/v2/ordersx"),
        ("GET", "/v2/stocks/bars"),
        ("GET", "/V2/orders"),
        ("GET", ""),
    ],
)
def test_what_is_no_line_of_the_table_is_refused(method: str, path: str) -> None:
    with pytest.raises(ProxyRefused):
        TABLE.host(method, path)


# Money out of an account, or to another owner; keys; users' other products.
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/wallets"),
        ("POST", "/v2/wallets/transfers"),
        ("POST", "/v2/wallets/whitelists"),
        ("POST", "/v1/journals"),
        ("POST", "/v1/accounts/a/transfers"),
        ("POST", "/v1/accounts/a/ach_relationships"),
        ("POST", "/oauth/token"),
        ("GET", "/v1/events/trades"),
        ("GET", "/v2/events/trades"),
        ("POST", "/v2/tokenization/mint"),
        ("DELETE", "/v2/account"),
        ("PUT", "/v2/account/configurations"),
    ],
)
def test_nothing_that_moves_money_out_of_an_alpaca_account_can_be_called(method: str, path: str) -> None:
    with pytest.raises(ProxyRefused):
        ALPACA.host(method, path)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_of_polygon_one_can_only_read(method: str) -> None:
    for path in ("/v2/last/trade/AAPL", "/v1/marketstatus/now", "/v3/reference/tickers"):
        assert POLYGON.host("GET", path) == POLYGON.host("HEAD", path) == "data"
        with pytest.raises(ProxyRefused):
            POLYGON.host(method, path)


# --- names in a query -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "apiKey=x",
        "APIKEY=x",
        "api_key=x",
        "api-key",
        "a=b&apiKey=x",
        "a=b;apikey=x",
        "api%4bey=x",
        "api%EF%BC%ABey=x",  # a letter that is K to whoever normalises it
        "%61piKey=x",
        "apiKey%00=x",
        "apiKey%20=x",
        "apiKey[]=x",
        "%20apiKey=x",
        "api.key=x",
        "?apiKey=x",
        "apikey==",
        "api%E2%84%AAey=x",
    ],  # the sign for kelvin, whose lower case is k
)
def test_a_key_is_seen_however_its_name_is_written(query: str) -> None:
    assert "apikey" in names_in_query(query)


def test_other_names_are_theirs() -> None:
    assert names_in_query("ticker=apiKey&limit=10&apiKeys=1&key=2") == {"ticker", "limit", "apikeys", "key"}
    assert names_in_query("") == {""}


@pytest.mark.parametrize("query", ["api%254bey=x", "a=1&%25%36%31piKey=x", "%2525252561=x"])
def test_a_name_that_is_escaped_twice_is_refused(query: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        names_in_query(query)
    assert caught.value.field == "query"


def test_the_longest_query_costs_nothing_much() -> None:
    began = time.thread_time()
    with pytest.raises(InvalidInput):
        names_in_query("%" + "25" * 4000)
    names_in_query("%61&" * 2048)
    assert time.thread_time() - began < 1
