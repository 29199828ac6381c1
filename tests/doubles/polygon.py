"""Polygon's API as its documentation tells it: market status for a known key, and its refusals.

https://polygon.io/docs/indices/launchpad/get_v1_marketstatus_now
"""

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

    def issue_key(self, api_key: str) -> None:
        """From now on this key is accepted."""
        self._keys.add(api_key)

    def revoke_key(self, api_key: str) -> None:
        """From now on this key is unknown."""
        self._keys.discard(api_key)

    async def usual(self, request: web.Request) -> web.StreamResponse:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        api_key = bearer if scheme == "Bearer" else request.query.get("apiKey", "")
        if not api_key:
            error = {"status": "ERROR", "request_id": REQUEST_ID, "error": "API Key was not provided"}
            return web.json_response(error, status=401)
        if api_key not in self._keys:
            return web.json_response(UNKNOWN_KEY, status=401)
        if request.path != "/v1/marketstatus/now":
            return web.json_response({"status": "ERROR", "request_id": REQUEST_ID}, status=404)
        return web.json_response(MARKET_STATUS)


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
