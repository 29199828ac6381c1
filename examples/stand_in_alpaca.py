"""A stand-in for Alpaca's trading API: one paper account, a few stocks that never change their price, in memory.

It takes the account's present keys alone, as Alpaca does, and prints what it is asked and by whose key. Its own address
/stand-in/keys is where the account's owner regenerates the keys; Alpaca's owners have a web page for that. Orders are
filled at once. It is for trying things out: it listens on this machine alone, and anybody here can ask it.

    python examples/stand_in_alpaca.py [--port 8090] [--api-key PKEXAMPLE] [--secret-key example-secret]
"""

import argparse
import hmac
import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

PRICES = {"AAPL": Decimal("190.00"), "MSFT": Decimal("410.50"), "SPY": Decimal("505.25")}
MAX_BODY = 65_536
Told = tuple[int, Any]
"""Status and JSON body."""


class Account:
    """One account: its keys, cash and orders."""

    def __init__(self, api_key: str, secret_key: str) -> None:
        self._keys = (api_key, secret_key)
        self._cash = Decimal(100_000)
        self._orders: list[dict[str, Any]] = []
        self._lock = Lock()

    def accepts(self, api_key: str, secret_key: str) -> bool:
        """Whether these are its present keys."""
        same = [
            hmac.compare_digest(a.encode(), b.encode()) for a, b in zip(self._keys, (api_key, secret_key), strict=True)
        ]
        return all(same)

    def regenerate(self, given: Any) -> Told:
        """New keys. The old ones are refused from now on."""
        if not isinstance(given, dict) or not all(
            isinstance(given.get(name), str) for name in ("api_key", "secret_key")
        ):
            return 422, {"message": "api_key and secret_key are required"}
        self._keys = (given["api_key"], given["secret_key"])
        return 200, {"message": "the account has new keys"}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Told:
        """What Alpaca would say."""
        with self._lock:
            match method, path:
                case "GET", "/v2/account":
                    return 200, self._account()
                case "GET", "/v2/clock":
                    return 200, {"timestamp": _now(), "is_open": True}
                case "GET", "/v2/orders":
                    return 200, self._orders[::-1]
                case "GET", "/v2/orders:by_client_order_id":
                    return self._ordered(query.get("client_order_id", [""])[0])
                case "POST", "/v2/orders":
                    return self._place(body)
        return 404, {"code": 40410000, "message": "endpoint not found"}

    def _account(self) -> dict[str, Any]:
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, "https://stand-in.test")),
            "account_number": "PA3STANDIN01",  # paper account numbers begin with PA
            "status": "ACTIVE",
            "currency": "USD",
            "cash": str(self._cash),
            "trading_blocked": False,
        }

    def _ordered(self, client_order_id: str) -> Told:
        found = [each for each in self._orders if each["client_order_id"] == client_order_id]
        return (200, found[0]) if found else (404, {"code": 40410000, "message": "order not found"})

    def _place(self, given: Any) -> Told:
        if not isinstance(given, dict) or given.get("symbol") not in PRICES or given.get("side") not in ("buy", "sell"):
            return 422, {"code": 42210000, "message": "a known symbol and a side are required"}
        client_order_id = str(given.get("client_order_id") or uuid.uuid4())
        if self._ordered(client_order_id)[0] == 200:
            return 422, {"code": 40010001, "message": "client_order_id must be unique"}
        quantity = _amount(given.get("qty"))
        if quantity is None:
            return 422, {"code": 40010001, "message": "qty must be > 0"}
        cost = quantity * PRICES[given["symbol"]] * (1 if given["side"] == "buy" else -1)
        if cost > self._cash:
            return 403, {"code": 40310000, "message": "insufficient buying power"}
        self._cash -= cost
        made = {"id": str(uuid.uuid4()), "client_order_id": client_order_id, "created_at": _now(), "status": "filled"}
        self._orders.append(made | {"symbol": given["symbol"], "qty": str(quantity), "side": given["side"]})
        return 200, self._orders[-1]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    account: Account

    def do_GET(self) -> None:
        """Reads."""
        self._handle(None)

    def do_POST(self) -> None:
        """Orders, and new keys."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._answer(411, {"message": "a Content-Length is required, of at most 65536"})
            return
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError:
            body = None
        self._handle(body)

    def _handle(self, body: Any) -> None:
        address = urlsplit(self.path)
        keys = self.headers.get("APCA-API-KEY-ID", ""), self.headers.get("APCA-API-SECRET-KEY", "")
        if (self.command, address.path) == ("POST", "/stand-in/keys"):
            self._answer(*self.account.regenerate(body))
        elif not all(keys):
            self._answer(403, {"message": "forbidden."})
        elif not self.account.accepts(*keys):
            self._answer(401, {"code": 40110000, "message": "request is not authorized"})
        else:
            self._answer(*self.account.answer(self.command, address.path, parse_qs(address.query), body))

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, _format: str, *_args: object) -> None:
        """One line for each answer: of the keys, the beginning of the one that isn't secret."""

    def log_request(self, code: int | str = "-", _size: int | str = "-") -> None:
        """As `log_message`."""
        key = self.headers.get("APCA-API-KEY-ID", "")[:8] or "no key"
        path = "".join(each for each in self.path if each.isprintable())
        print(f"{self.command} {path} by {key}: {int(code)}", flush=True)


def _amount(given: object) -> Decimal | None:
    try:
        amount = Decimal(str(given))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount > 0 else None


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def main() -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A stand-in for Alpaca's trading API.")
    parser.add_argument("--port", type=int, default=8090, help="0 takes any free one")
    parser.add_argument("--api-key", default="PKEXAMPLE")
    parser.add_argument("--secret-key", default="example-secret")
    given = parser.parse_args()
    handler = type("OneAccount", (Handler,), {"account": Account(given.api_key, given.secret_key)})
    with ThreadingHTTPServer(("127.0.0.1", given.port), handler) as server:
        print(f"a stand-in Alpaca is at http://127.0.0.1:{server.server_address[1]}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
