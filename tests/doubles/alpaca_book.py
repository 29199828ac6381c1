"""One account at Alpaca: its cash, orders and positions, as its Trading API tells and changes them.

What is answered is as documented (https://docs.alpaca.markets/reference/postorder, .../getallopenpositions), or as
users saw it: 403 with code 40310000 (https://github.com/alpacahq/alpaca-py/issues/225), 422 with code 40010001. Market
orders, and limit orders at or over the price, fill at once, though the answer to the order itself says `accepted`, as
Alpaca's does; others stay `new`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID, uuid4, uuid5

Prices = dict[str, Decimal]
Told = tuple[int, Any]
"""Status and JSON body; no body where it is None."""

_ASSETS = UUID("b0b6dd9d-8b9b-48a9-ba46-b9d54906e415")
_OPEN = ("new", "accepted", "partially_filled")
_SIDES = ("buy", "sell")
_TYPES = ("market", "limit")
_TIMES = ("day", "gtc", "opg", "cls", "ioc", "fok")


@dataclass
class Book:
    """An account. Amounts are US dollars."""

    account_number: str
    prices: Prices
    cash: Decimal = Decimal(100_000)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As they are told, by id, oldest first."""
    holdings: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)
    """Quantity and cost of what is held, by symbol."""

    def account(self) -> dict[str, Any]:
        """The answer to `GET /v2/account`, shortened."""
        value = sum((quantity * self.prices[symbol] for symbol, (quantity, _) in self.holdings.items()), Decimal())
        return {
            "id": str(uuid5(_ASSETS, self.account_number)),
            "account_number": self.account_number,
            "status": "ACTIVE",
            "currency": "USD",
            "cash": str(self.cash),
            "buying_power": str(self.cash),
            "equity": str(self.cash + value),
            "long_market_value": str(value),
            "trading_blocked": False,
            "account_blocked": False,
        }

    def place(self, given: Any) -> Told:
        """`POST /v2/orders`: 200 and the order; 422 where it makes no sense; 403 where the money or shares lack."""
        if not isinstance(given, dict):
            return _unprocessable("request body format is invalid")
        problem = self._problem(given)
        if problem is not None:
            return problem
        price = Decimal(str(given["limit_price"])) if given["type"] == "limit" else self.prices[given["symbol"]]
        quantity = Decimal(str(given["qty"])) if "qty" in given else Decimal(str(given["notional"])) / price
        held = self.holdings.get(given["symbol"], (Decimal(), Decimal()))[0]
        if given["side"] == "buy" and quantity * price > self.cash:
            lacking = {"buying_power": str(self.cash), "cost_basis": str(quantity * price)}
            return 403, {"code": 40310000, "message": "insufficient buying power", **lacking}
        if given["side"] == "sell" and quantity > held:
            message = f"insufficient qty available for order (requested: {quantity}, available: {held})"
            return 403, {"code": 40310000, "message": message, "available": str(held)}
        order = self._order(given, quantity)
        self.orders[order["id"]] = order
        answered = {**order, "status": "accepted"}
        self._fill_if_due(order, price)
        return 200, answered

    def by_client_order_id(self, client_order_id: str) -> Told:
        """`GET /v2/orders:by_client_order_id`."""
        for order in self.orders.values():
            if order["client_order_id"] == client_order_id:
                return 200, order
        return _not_found(f"order not found for {client_order_id}")

    def listed(self, status: str) -> Told:
        """`GET /v2/orders`: open, closed or all, newest first."""
        newest_first = reversed(self.orders.values())
        return 200, [
            each for each in newest_first if status == "all" or (each["status"] in _OPEN) == (status == "open")
        ]

    def order(self, order_id: str) -> Told:
        """`GET /v2/orders/{order_id}`."""
        found = self.orders.get(order_id)
        return _not_found(f"order not found for {order_id}") if found is None else (200, found)

    def cancel(self, order_id: str) -> Told:
        """`DELETE /v2/orders/{order_id}`: 204; 422 where it is no longer open."""
        found = self.orders.get(order_id)
        if found is None:
            return _not_found(f"order not found for {order_id}")
        if found["status"] not in _OPEN:
            return _unprocessable(f'order is already in "{found["status"]}" state', 42210000)
        found.update(status="canceled", canceled_at=_now())
        return 204, None

    def cancel_all(self) -> Told:
        """`DELETE /v2/orders`: 207 and each order's id and status."""
        still_open = [order["id"] for order in self.orders.values() if order["status"] in _OPEN]
        return 207, [{"id": order_id, "status": 200} for order_id in still_open if self.cancel(order_id)]

    def positions(self) -> Told:
        """`GET /v2/positions`."""
        return 200, [self._position(symbol) for symbol in self.holdings]

    def position(self, symbol: str) -> Told:
        """`GET /v2/positions/{symbol}`."""
        return (200, self._position(symbol)) if symbol in self.holdings else _not_found("position does not exist")

    def close(self, symbol: str) -> Told:
        """`DELETE /v2/positions/{symbol}`: 200 and the order that closes it."""
        if symbol not in self.holdings:
            return _not_found("position does not exist")
        quantity = str(self.holdings[symbol][0])
        return self.place({"symbol": symbol, "qty": quantity, "side": "sell", "type": "market", "time_in_force": "day"})

    def _problem(self, given: Mapping[str, Any]) -> Told | None:
        for name, choices in (("side", _SIDES), ("type", _TYPES), ("time_in_force", _TIMES)):
            if given.get(name) not in choices:
                return _unprocessable(f"invalid {name}" if given.get(name) else f"{name} is required")
        if given.get("symbol") not in self.prices:
            return _unprocessable(f'asset "{given.get("symbol")}" not found', 42210000)
        if ("qty" in given) == ("notional" in given):
            return _unprocessable("qty or notional is required, but not both")
        amounts = [given[name] for name in ("qty", "notional", "limit_price") if name in given]
        if (given["type"] == "limit") != ("limit_price" in given):
            limit = given["type"] == "limit"
            return _unprocessable(
                "limit orders require a limit price" if limit else "market orders require no stop or limit price"
            )
        if not all(_is_positive(each) for each in amounts):
            return _unprocessable("qty, notional and limit price must be > 0")
        if any(order["client_order_id"] == given.get("client_order_id") for order in self.orders.values()):
            return _unprocessable("client_order_id must be unique")
        return None

    def _order(self, given: Mapping[str, Any], quantity: Decimal) -> dict[str, Any]:
        now = _now()
        return {
            "id": str(uuid4()),
            "client_order_id": given.get("client_order_id") or str(uuid4()),
            "created_at": now,
            "submitted_at": now,
            "filled_at": None,
            "canceled_at": None,
            "asset_id": str(uuid5(_ASSETS, given["symbol"])),
            "symbol": given["symbol"],
            "asset_class": "us_equity",
            "notional": given.get("notional"),
            "qty": str(quantity),
            "filled_qty": "0",
            "filled_avg_price": None,
            "type": given["type"],
            "order_type": given["type"],
            "side": given["side"],
            "time_in_force": given["time_in_force"],
            "limit_price": given.get("limit_price"),
            "status": "new",
        }

    def _fill_if_due(self, order: dict[str, Any], limit: Decimal) -> None:
        price, quantity, symbol = self.prices[order["symbol"]], Decimal(order["qty"]), order["symbol"]
        is_buy = order["side"] == "buy"
        if order["type"] == "limit" and (limit < price if is_buy else limit > price):
            return
        held, cost = self.holdings.get(symbol, (Decimal(), Decimal()))
        if is_buy:
            self.cash -= quantity * price
            self.holdings[symbol] = held + quantity, cost + quantity * price
        else:
            self.cash += quantity * price
            self.holdings[symbol] = held - quantity, cost * (held - quantity) / held
            if held == quantity:
                del self.holdings[symbol]
        order.update(status="filled", filled_qty=order["qty"], filled_avg_price=str(price), filled_at=_now())

    def _position(self, symbol: str) -> dict[str, Any]:
        (quantity, cost), price = self.holdings[symbol], self.prices[symbol]
        return {
            "asset_id": str(uuid5(_ASSETS, symbol)),
            "symbol": symbol,
            "exchange": "NASDAQ",
            "asset_class": "us_equity",
            "avg_entry_price": str(cost / quantity),
            "qty": str(quantity),
            "side": "long",
            "market_value": str(quantity * price),
            "cost_basis": str(cost),
            "unrealized_pl": str(quantity * price - cost),
            "current_price": str(price),
        }


def _is_positive(amount: Any) -> bool:
    try:
        return Decimal(str(amount)) > 0
    except InvalidOperation:
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _unprocessable(message: str, code: int = 40010001) -> Told:
    return 422, {"code": code, "message": message}


def _not_found(message: str) -> Told:
    return 404, {"code": 40410000, "message": message}
