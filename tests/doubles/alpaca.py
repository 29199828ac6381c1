"""Alpaca as its documentation tells it: two key headers and their refusals, trading, market data.

https://docs.alpaca.markets/docs/authentication,
https://docs.alpaca.markets/docs/getting-started-with-trading-api,
https://alpaca.markets/learn/how-to-fix-common-trading-api-errors-at-alpaca, https://docs.alpaca.markets/reference
"""

import json
import secrets
import ssl
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from aiohttp import web

from tests.doubles.alpaca_book import Book, Told
from tests.doubles.scripted_server import Answer, ScriptedServer, json_answer

UNAUTHORIZED = {"code": 40110000, "message": "request is not authorized"}
FORBIDDEN = {"message": "forbidden."}
NO_SUCH_ENDPOINT = {"code": 40410000, "message": "endpoint not found"}
PAPER_NUMBER = "PA3ALPACA001"
LIVE_NUMBER = "123456789"
PER_MINUTE = 200


class _Keyed(ScriptedServer):
    """What trading and market data share: the keys, the rate limit, the headers of each answer."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.books: dict[tuple[str, str], Book] = {}
        """The accounts, by their two keys."""
        self.prices = {"AAPL": Decimal("190.00"), "MSFT": Decimal("410.50"), "SPY": Decimal("505.25")}
        self.requests_left = PER_MINUTE
        """Over all accounts. At 0 everything is answered with 429; it never fills up by itself."""
        self.retry_after = "7"

    async def usual(self, request: web.Request) -> web.StreamResponse:
        """As Alpaca, with `X-Request-ID` and the rate limit's headers."""
        status, body = self._told(request.method, request.path, await request.read(), request)
        response = web.Response(status=status) if body is None else web.json_response(body, status=status)
        response.headers["X-Request-ID"] = secrets.token_hex(16)
        response.headers["X-RateLimit-Limit"] = str(PER_MINUTE)
        response.headers["X-RateLimit-Remaining"] = str(self.requests_left)
        response.headers["X-RateLimit-Reset"] = str(int(time.time()) + 60)
        if status == 429:
            response.headers["Retry-After"] = self.retry_after
        return response

    def _told(self, method: str, path: str, body: bytes, request: web.Request) -> Told:
        api_key, secret_key = (request.headers.get(name) for name in ("APCA-API-KEY-ID", "APCA-API-SECRET-KEY"))
        if not api_key or not secret_key:
            return 403, FORBIDDEN
        book = self._book(api_key, secret_key)
        if book is None:
            return 401, UNAUTHORIZED
        if self.requests_left == 0:
            return 429, {"code": 42910000, "message": "rate limit exceeded"}
        self.requests_left -= 1
        # GET's answer without its body, which aiohttp leaves out.
        return self.answered(book, "GET" if method == "HEAD" else method, path, body, request) or (
            404,
            NO_SUCH_ENDPOINT,
        )

    def _book(self, api_key: str, secret_key: str) -> Book | None:
        return self.books.get((api_key, secret_key))

    def answered(self, book: Book, method: str, path: str, body: bytes, request: web.Request) -> Told | None:
        """What this endpoint says of this account; None where there is no such endpoint."""
        raise NotImplementedError


class AlpacaDouble(_Keyed):
    """One of Alpaca's two environments: trading. It knows the accounts that tests open in it."""

    def open_account(
        self, api_key: str, secret_key: str, account_number: str = PAPER_NUMBER, *, cash: Decimal = Decimal(100_000)
    ) -> Book:
        """From now on these keys are accepted."""
        self.books[api_key, secret_key] = Book(account_number, self.prices, cash)
        return self.books[api_key, secret_key]

    def close_account(self, api_key: str, secret_key: str) -> None:
        """From now on these keys are refused, as after their owner regenerated them."""
        self.books.pop((api_key, secret_key), None)

    def change_keys(self, before: tuple[str, str], after: tuple[str, str]) -> None:
        """The account's owner regenerates its keys: the account stays what it is."""
        self.books[after] = self.books.pop(before)

    def answered(self, book: Book, method: str, path: str, body: bytes, request: web.Request) -> Told | None:
        """Account, orders, positions and the clock."""
        what, _, which = path.removeprefix("/v2/").partition("/")
        match method, what, which:
            case "GET", "account", "":
                return 200, book.account()
            case "GET", "clock", "":
                return 200, clock()
            case "GET", "orders", "":
                return book.listed(request.query.get("status", "open"))
            case "POST", "orders", "":
                return book.place(_json(body))
            case "DELETE", "orders", "":
                return book.cancel_all()
            case "GET", "orders:by_client_order_id", "":
                return book.by_client_order_id(request.query.get("client_order_id", ""))
            case "GET", "orders", order_id:
                return book.order(order_id)
            case "DELETE", "orders", order_id:
                return book.cancel(order_id)
            case "GET", "positions", "":
                return book.positions()
            case "GET", "positions", symbol:
                return book.position(symbol)
            case "DELETE", "positions", symbol if symbol:
                return book.close(symbol)
        return None


class AlpacaDataDouble(_Keyed):
    """Alpaca's market data, for the accounts of one or more environments."""

    def __init__(self, *environments: AlpacaDouble) -> None:
        super().__init__()
        self._environments = environments

    def _book(self, api_key: str, secret_key: str) -> Book | None:
        return next((book for each in self._environments if (book := each.books.get((api_key, secret_key)))), None)

    def answered(self, book: Book, method: str, path: str, body: bytes, request: web.Request) -> Told | None:  # noqa: ARG002 - as its base
        """Latest trades and quotes, and bars, of the stocks that have a price."""
        return market_data(book, path, request.query.get("limit")) if method == "GET" else None


class AlpacaStandIn(AlpacaDouble):
    """Trading and market data at one address, as a stand-in has them that is set by ALPACA_BASE_URL alone."""

    def answered(self, book: Book, method: str, path: str, body: bytes, request: web.Request) -> Told | None:
        """Market data where the path is its, else trading."""
        data = market_data(book, path, request.query.get("limit")) if method == "GET" else None
        return data or super().answered(book, method, path, body, request)


def market_data(book: Book, path: str, limit: str | None) -> Told | None:
    """The answers of https://docs.alpaca.markets/reference/stocklatesttradesingle and its neighbours."""
    match path.split("/"):
        case ["", "v2", "stocks", symbol, *what] if symbol in book.prices:
            price, now = float(book.prices[symbol]), datetime.now(UTC)
        case _:
            return None
    match what:
        case ["trades", "latest"]:
            trade = {"t": _at(now), "x": "V", "p": price, "s": 100, "c": ["@"], "i": 1, "z": "C"}
            return 200, {"symbol": symbol, "trade": trade}
        case ["quotes", "latest"]:
            quote = {"t": _at(now), "ap": price + 0.01, "as": 1, "bp": price - 0.01, "bs": 1, "c": ["R"], "z": "C"}
            return 200, {"symbol": symbol, "quote": quote}
        case ["bars"]:
            count = int(limit or 10)
            bars = [_bar(price, now - timedelta(minutes=count - each)) for each in range(count)]
            return 200, {"symbol": symbol, "bars": bars, "next_page_token": None}
    return None


def clock() -> dict[str, object]:
    """The answer to `GET /v2/clock`: the market is always open here."""
    now = datetime.now(UTC)
    later = now + timedelta(hours=4)
    return {
        "timestamp": _at(now),
        "is_open": True,
        "next_open": _at(later + timedelta(hours=17)),
        "next_close": _at(later),
    }


def account(account_number: str) -> dict[str, Any]:
    """The answer to `GET /v2/account`, shortened."""
    return Book(account_number, {}).account()


def unauthorized() -> Answer:
    """Keys that are not accepted in this environment."""
    return json_answer(401, UNAUTHORIZED)


def forbidden() -> Answer:
    """Keys that are missing or malformed."""
    return json_answer(403, FORBIDDEN)


def throttled(retry_after: str | None = None) -> Answer:
    """Over the limit of 200 requests a minute."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return json_answer(429, {"code": 42910000, "message": "rate limit exceeded"}, headers)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _bar(price: float, at: datetime) -> dict[str, object]:
    return {"t": _at(at), "o": price, "h": price + 1, "l": price - 1, "c": price, "v": 1000, "n": 10, "vw": price}


def _at(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
