"""Alpaca's Trading API as its documentation tells it: `GET /v2/account`, two key headers, their refusals.

https://docs.alpaca.markets/docs/authentication,
https://docs.alpaca.markets/docs/getting-started-with-trading-api,
https://alpaca.markets/learn/how-to-fix-common-trading-api-errors-at-alpaca
"""

from aiohttp import web

from tests.doubles.scripted_server import Answer, ScriptedServer, json_answer

UNAUTHORIZED = {"code": 40110000, "message": "request is not authorized"}
FORBIDDEN = {"message": "forbidden."}
PAPER_NUMBER = "PA3ALPACA001"
LIVE_NUMBER = "123456789"


class AlpacaDouble(ScriptedServer):
    """One of Alpaca's two environments. It knows the accounts that tests open in it."""

    def __init__(self) -> None:
        super().__init__()
        self._accounts: dict[tuple[str, str], str] = {}

    def open_account(self, api_key: str, secret_key: str, account_number: str = PAPER_NUMBER) -> None:
        """From now on these keys are accepted."""
        self._accounts[api_key, secret_key] = account_number

    def close_account(self, api_key: str, secret_key: str) -> None:
        """From now on these keys are refused, as after their owner regenerated them."""
        self._accounts.pop((api_key, secret_key), None)

    async def usual(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/v2/account":
            return web.json_response({"code": 40410000, "message": "endpoint not found"}, status=404)
        api_key, secret_key = (request.headers.get(name) for name in ("APCA-API-KEY-ID", "APCA-API-SECRET-KEY"))
        if not api_key or not secret_key:
            return web.json_response(FORBIDDEN, status=403)
        account_number = self._accounts.get((api_key, secret_key))
        if account_number is None:
            return web.json_response(UNAUTHORIZED, status=401)
        return web.json_response(account(account_number))


def account(account_number: str) -> dict[str, object]:
    """The answer to `GET /v2/account`, shortened."""
    return {
        "id": "e6fe16f3-64a4-4921-8928-cadf02f92f98",
        "account_number": account_number,
        "status": "ACTIVE",
        "currency": "USD",
        "buying_power": "262113.632",
        "trading_blocked": False,
    }


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
