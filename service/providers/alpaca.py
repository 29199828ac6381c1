"""Alpaca: two keys in two headers; paper and live accounts on two hosts with separate keys, market data on a third.

Sources: https://docs.alpaca.markets/docs/authentication (hosts, headers),
https://alpaca.markets/learn/how-to-fix-common-trading-api-errors-at-alpaca (401: keys not accepted here),
https://docs.alpaca.markets/docs/getting-started-with-trading-api (403: keys missing or malformed); the endpoints are
those of the OpenAPI documents behind https://docs.alpaca.markets/reference (Trading API, Market Data API).
"""

from dataclasses import dataclass
from typing import Literal, Self

import httpx

from service.errors import AccountTypeUnknown, ProviderRefused, ProviderUnavailable
from service.memory.plaintext import Plaintext
from service.modules.records import AccountType, ProviderVerdict
from service.providers.endpoints import Endpoints
from service.providers.exchange import Answer, ask, header_text, is_success
from service.settings import ProviderSettings

# Not here, and so never called: whatever moves money, or what it bought, out of an account or to another owner. That
# is wallets with their transfers and whitelists, perpetuals (which have wallets of their own) and tokenization; ACH,
# journals and OAuth are other APIs' (Broker, Connect). Nor are locates, which cost a fee, and the event streams.
_TRADING = """
GET               /v2/account
GET               /v2/account/activities
GET               /v2/account/activities/{activity_type}
GET PATCH         /v2/account/configurations
GET               /v2/account/portfolio/history
GET               /v2/assets
GET               /v2/assets/{symbol_or_asset_id}
GET               /v2/assets/fixed_income/us_corporates
GET               /v2/assets/fixed_income/us_treasuries
GET               /v2/calendar
GET               /v3/calendar/{market}
GET               /v2/clock
GET               /v3/clock
GET               /v2/corporate_actions/announcements
GET               /v2/corporate_actions/announcements/{id}
GET               /v2/options/contracts
GET               /v2/options/contracts/{symbol_or_id}
DELETE GET POST   /v2/orders
DELETE GET PATCH  /v2/orders/{order_id}
GET               /v2/orders:by_client_order_id
DELETE GET        /v2/positions
DELETE GET        /v2/positions/{symbol_or_asset_id}
POST              /v2/positions/{symbol_or_contract_id}/do-not-exercise
POST              /v2/positions/{symbol_or_contract_id}/exercise
GET POST          /v2/watchlists
DELETE GET POST PUT /v2/watchlists/{watchlist_id}
DELETE            /v2/watchlists/{watchlist_id}/{symbol}
DELETE GET POST PUT /v2/watchlists:by_name
"""

_DATA = """
GET  /v1/corporate-actions
GET  /v1beta1/corporate-actions
GET  /v1beta1/crypto-perps/{loc}/latest/bars
GET  /v1beta1/crypto-perps/{loc}/latest/orderbooks
GET  /v1beta1/crypto-perps/{loc}/latest/pricing
GET  /v1beta1/crypto-perps/{loc}/latest/quotes
GET  /v1beta1/crypto-perps/{loc}/latest/trades
GET  /v1beta1/fixed_income/latest/prices
GET  /v1beta1/fixed_income/latest/quotes
GET  /v1beta1/forex/latest/rates
GET  /v1beta1/forex/rates
GET  /v1beta1/indices/latest/values
GET  /v1beta1/indices/values
GET  /v1beta1/logos/{symbol}
GET  /v1beta1/news
GET  /v1beta1/options/bars
GET  /v1beta1/options/meta/conditions/{ticktype}
GET  /v1beta1/options/meta/exchanges
GET  /v1beta1/options/quotes/latest
GET  /v1beta1/options/snapshots
GET  /v1beta1/options/snapshots/{underlying_symbol}
GET  /v1beta1/options/trades
GET  /v1beta1/options/trades/latest
GET  /v1beta1/screener/{market_type}/movers
GET  /v1beta1/screener/stocks/most-actives
GET  /v1beta3/crypto/{loc}/bars
GET  /v1beta3/crypto/{loc}/latest/bars
GET  /v1beta3/crypto/{loc}/latest/orderbooks
GET  /v1beta3/crypto/{loc}/latest/quotes
GET  /v1beta3/crypto/{loc}/latest/trades
GET  /v1beta3/crypto/{loc}/quotes
GET  /v1beta3/crypto/{loc}/snapshots
GET  /v1beta3/crypto/{loc}/trades
GET  /v2/stocks/auctions
GET  /v2/stocks/bars
GET  /v2/stocks/bars/latest
GET  /v2/stocks/meta/conditions/{ticktype}
GET  /v2/stocks/meta/exchanges
GET  /v2/stocks/quotes
GET  /v2/stocks/quotes/latest
GET  /v2/stocks/snapshots
GET  /v2/stocks/trades
GET  /v2/stocks/trades/latest
GET  /v2/stocks/{symbol}/auctions
GET  /v2/stocks/{symbol}/bars
GET  /v2/stocks/{symbol}/bars/latest
GET  /v2/stocks/{symbol}/quotes
GET  /v2/stocks/{symbol}/quotes/latest
GET  /v2/stocks/{symbol}/snapshot
GET  /v2/stocks/{symbol}/trades
GET  /v2/stocks/{symbol}/trades/latest
"""

_PUBLIC = ("/v1beta1/crypto-perps/", "/v1beta3/crypto/")
"""What the Market Data API's document has as answered without keys, so that an answer says nothing of them."""

_ENDPOINTS: Endpoints[Literal["trading", "data"]] = Endpoints({"trading": _TRADING, "data": _DATA})


@dataclass(frozen=True, slots=True)
class AlpacaHosts:
    """Base URLs: of Alpaca's two environments, where keys of the one are refused by the other; of both's data."""

    paper: str = "https://paper-api.alpaca.markets"
    live: str = "https://api.alpaca.markets"
    data: str = "https://data.alpaca.markets"

    def account_type(self, base_url: str) -> AccountType | None:
        """Which environment this base URL is; None if it is neither."""
        given = httpx.URL(base_url)
        for name, host in self._named():
            known = httpx.URL(host)
            if (given.scheme, given.host, given.port) == (known.scheme, known.host, known.port):
                return name
        return None

    def _named(self) -> tuple[tuple[AccountType, str], ...]:
        return ("paper", self.paper), ("live", self.live)

    def other(self, account_type: AccountType) -> tuple[AccountType, str]:
        """The other environment's account type and base URL."""
        return ("live", self.live) if account_type == "paper" else ("paper", self.paper)


class Alpaca:
    """What Alpaca is to this service. Implements `Provider`."""

    credential_type = "alpaca"
    needs_secret_key = True
    has_account_types = True

    def __init__(
        self,
        client: httpx.AsyncClient,
        base_url: str,
        hosts: AlpacaHosts | None = None,
        *,
        data_url: str | None = None,
    ) -> None:
        """`hosts` are Alpaca's own unless a test says otherwise.

        Without a `data_url` market data is Alpaca's own host's, and where `base_url` is neither of Alpaca's hosts, that
        one's too: keys made for a stand-in don't go to Alpaca.
        """
        self._client = client
        self._hosts = hosts or AlpacaHosts()
        self._base_url = _base(base_url)
        self._environment = self._hosts.account_type(self._base_url)
        if data_url is not None:
            self._data_url = _base(data_url)
        else:
            self._data_url = self._base_url if self._environment is None else self._hosts.data

    @classmethod
    def configured(cls, client: httpx.AsyncClient, settings: ProviderSettings) -> Self:
        """At `ALPACA_BASE_URL` and `ALPACA_DATA_URL`."""
        return cls(client, settings.alpaca_base_url, data_url=settings.alpaca_data_url)

    def headers(self, api_key: Plaintext, secret_key: Plaintext) -> dict[str, str]:
        """What authenticates a request. Strings, which can't be wiped: make them at the last moment."""
        return {
            "APCA-API-KEY-ID": header_text(api_key, "api_key"),
            "APCA-API-SECRET-KEY": header_text(secret_key, "secret_key"),
        }

    def base_url(
        self,
        method: str,
        path: str,
        query: str,  # noqa: ARG002 - the protocol's; Alpaca takes no keys in it
        account_type: AccountType | None,
    ) -> str:
        """Trading goes to the account's environment, or to the one base URL that is neither; data to the data's host.

        Raises:
            ProxyRefused: this is no endpoint in the tables above.
            AccountTypeUnknown: for trading, where there are two environments.
        """
        if _ENDPOINTS.host(method, path) == "data":
            return self._data_url
        if self._environment is None:
            return self._base_url
        if account_type is None:
            raise AccountTypeUnknown
        return self._hosts.paper if account_type == "paper" else self._hosts.live

    def refuses_keys(self, status: int) -> bool:
        """401. A 403 is about the order, or what the account may do."""
        return status == httpx.codes.UNAUTHORIZED

    def accepts_keys(self, status: int, path: str) -> bool:
        """Success, but not with crypto's prices, which Alpaca tells everybody."""
        return is_success(status) and not path.startswith(_PUBLIC)

    async def validate(self, api_key: Plaintext, secret_key: Plaintext) -> ProviderVerdict:
        """Whether Alpaca accepts the keys, and whether they are a paper or a live account's.

        Where the base URL is one of Alpaca's two hosts, the host that accepts tells the account type, and
        keys count as refused only when both hosts have refused them. Any other base URL is asked alone, and the
        account number tells: a paper account's begins with PA. Each host is asked once, nothing is retried.

        Raises:
            InvalidInput: a key can't be sent.
            ProviderUnavailable: (and its kinds) a host that had to be asked couldn't be.
        """
        first = self._environment
        account_number = await self._account_number(self._base_url, api_key, secret_key)
        if first is None:
            if account_number is None:
                return ProviderVerdict(is_valid=False)
            account_type: AccountType = "paper" if account_number.startswith("PA") else "live"
            return ProviderVerdict(is_valid=True, account_type=account_type)
        if account_number is not None:
            return ProviderVerdict(is_valid=True, account_type=first)
        second, base_url = self._hosts.other(first)
        if await self._account_number(base_url, api_key, secret_key) is not None:
            return ProviderVerdict(is_valid=True, account_type=second)
        return ProviderVerdict(is_valid=False)

    async def _account_number(self, base_url: str, api_key: Plaintext, secret_key: Plaintext) -> str | None:
        """The number of the account that the keys open at this host; None where it refuses the keys."""
        url = f"{base_url}/v2/account"
        answer = await ask(self._client, url, lambda: self.headers(api_key, secret_key), provider=self.credential_type)
        if answer.status == 200:
            account_number = (answer.json_object() or {}).get("account_number")
            if not isinstance(account_number, str) or not account_number:
                raise ProviderUnavailable("Alpaca's answer is not an account.")
            return account_number
        if _is_someone_elses(answer):
            raise ProviderRefused
        return None


def _base(url: str) -> str:
    # Alpaca's dashboard shows the endpoint with /v2, so that is what people paste.
    return url.rstrip("/").removesuffix("/v2")


def _is_someone_elses(answer: Answer) -> bool:
    """Whether a 403 is a firewall's page and not Alpaca's JSON: it says nothing of the keys."""
    return answer.status == 403 and bool(answer.body.strip()) and answer.json_object() is None
