"""Polygon's API as its documentation tells it: market status, a last trade, tickers in pages, and its refusals.

https://polygon.io/docs/indices/launchpad/get_v1_marketstatus_now, https://polygon.io/docs/stocks (last trade, tickers)
"""

from typing import Any

from aiohttp import web

from tests.doubles.scripted_server import Answer, ScriptedServer, json_answer

REQUEST_ID = "1e2a4e1c68224da666232d16699b7fd7"
UNKNOWN_KEY = {"status": "ERROR", "request_id": REQUEST_ID, "error": "Unknown API Key"}
NOT_AUTHORIZED = {
    "status": "NOT_AUTHORIZED",
    "request_id": REQUEST_ID,
    "message": "You are not entitled to this data. Please upgrade your plan at https://polygon.io/pricing",
}
MARKET_STATUS = {
    "afterHours": True,
    "currencies": {"crypto": "open", "fx": "open"},
    "earlyHours": False,
    "exchanges": {"nasdaq": "extended-hours", "nyse": "extended-hours", "otc": "closed"},
    "market": "extended-hours",
    "serverTime": "2020-11-10T17:37:37-05:00",
}


class PolygonDouble(ScriptedServer):
    """Polygon, with the keys that tests make known to it."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: set[str] = set()
        self.tickers = ["AAPL", "AMZN", "GOOG", "MSFT", "SPY"]
        self.page = 2

    def issue_key(self, api_key: str) -> None:
        """From now on this key is accepted."""
        self._keys.add(api_key)

    def revoke_key(self, api_key: str) -> None:
        """From now on this key is unknown."""
        self._keys.discard(api_key)

    async def usual(self, request: web.Request) -> web.StreamResponse:
        status, body = self._told(request)
        return web.json_response(body, status=status, headers={"X-Request-Id": REQUEST_ID})

    def _told(self, request: web.Request) -> tuple[int, dict[str, Any]]:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        # The worst that a caller's own `apiKey` could do: to go before the header.
        api_key = request.query.get("apiKey") or (bearer if scheme == "Bearer" else "")
        if not api_key:
            return 401, {"status": "ERROR", "request_id": REQUEST_ID, "error": "API Key was not provided"}
        if api_key not in self._keys:
            return 401, UNKNOWN_KEY
        if request.method in ("GET", "HEAD"):
            match request.path.split("/")[1:]:
                case ["v1", "marketstatus", "now"]:
                    return 200, MARKET_STATUS
                case ["v2", "last", "trade", ticker] if ticker in self.tickers:
                    trade = {"T": ticker, "p": 129.8473, "s": 25, "t": 1617901342969834000, "x": 4}
                    return 200, {"status": "OK", "request_id": REQUEST_ID, "results": trade}
                case ["v3", "reference", "tickers"]:
                    return 200, self._page(int(request.query.get("cursor", "0")))
        return 404, {"status": "NOT_FOUND", "request_id": REQUEST_ID, "message": "Data not found."}

    def _page(self, first: int) -> dict[str, Any]:
        """Pages are asked for at `next_url`, which is absolute and names no key."""
        shown = self.tickers[first : first + self.page]
        told = {"status": "OK", "request_id": REQUEST_ID, "count": len(shown)}
        told["results"] = [{"ticker": each, "market": "stocks", "active": True} for each in shown]
        if first + self.page < len(self.tickers):
            told["next_url"] = f"{self.url}/v3/reference/tickers?cursor={first + self.page}"
        return told


def unknown_key() -> Answer:
    """A key that Polygon doesn't know."""
    return json_answer(401, UNKNOWN_KEY)


def not_authorized() -> Answer:
    """A known key whose plan doesn't include what was asked for."""
    return json_answer(403, NOT_AUTHORIZED)


def throttled(retry_after: str | None = None) -> Answer:
    """Over the free plan's five requests a minute."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    error = "You've exceeded the maximum requests per minute, please wait or upgrade your subscription."
    return json_answer(429, {"status": "ERROR", "request_id": REQUEST_ID, "error": error}, headers)
