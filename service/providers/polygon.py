"""Polygon, which is Massive by its newer name: market data, one key, as a bearer token.

Sources: https://polygon.io/docs/indices/launchpad/get_v1_marketstatus_now (header, question); for who is answered
what, users' reports: https://github.com/alpacahq/alpaca-trade-api-python/issues/44 (401: a key that isn't known),
https://github.com/OpenBB-finance/OpenBB/issues/4747 (403 `NOT_AUTHORIZED`: a good key, outside its plan). The endpoints
are those of the OpenAPI document that Massive publishes (github.com/massive-com/client-jvm, src/openapi.json). Keys and
paths are the same at both names' hosts (https://massive.com/blog/polygon-is-now-massive): which is asked is a setting.
"""

from typing import Literal, Self

import httpx

from service.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from service.memory.plaintext import Plaintext
from service.modules.records import AccountType, ProviderVerdict
from service.providers.endpoints import Endpoints, names_in_query
from service.providers.exchange import ask, header_text, is_success
from service.settings import ProviderSettings

_DATA = """
GET  /benzinga/v1/analyst-insights
GET  /benzinga/v1/analysts
GET  /benzinga/v1/bulls-bears-say
GET  /benzinga/v1/consensus-ratings/{ticker}
GET  /benzinga/v1/earnings
GET  /benzinga/v1/firms
GET  /benzinga/v1/guidance
GET  /benzinga/v1/ratings
GET  /benzinga/v2/news
GET  /consumer-spending/eu/v1/merchant-aggregates
GET  /consumer-spending/eu/v1/merchant-hierarchy
GET  /crypto/v1/exchanges
GET  /etf-global/v1/analytics
GET  /etf-global/v1/constituents
GET  /etf-global/v1/fund-flows
GET  /etf-global/v1/profiles
GET  /etf-global/v1/taxonomies
GET  /fed/v1/inflation
GET  /fed/v1/inflation-expectations
GET  /fed/v1/labor-market
GET  /fed/v1/treasury-yields
GET  /forex/v1/exchanges
GET  /futures/v1/aggs/{ticker}
GET  /futures/v1/contracts
GET  /futures/v1/exchanges
GET  /futures/v1/market-status
GET  /futures/v1/products
GET  /futures/v1/quotes/{ticker}
GET  /futures/v1/schedules
GET  /futures/v1/snapshot
GET  /futures/v1/trades/{ticker}
GET  /options/v1/exchanges
GET  /options/v3/quotes/{ticker}
GET  /options/v3/trades/{ticker}
GET  /stocks/filings/10-K/vX/sections
GET  /stocks/filings/8-K/vX/disclosures
GET  /stocks/filings/8-K/vX/text
GET  /stocks/filings/vX/13-F
GET  /stocks/filings/vX/form-3
GET  /stocks/filings/vX/form-4
GET  /stocks/filings/vX/index
GET  /stocks/filings/vX/risk-factors
GET  /stocks/financials/v1/balance-sheets
GET  /stocks/financials/v1/cash-flow-statements
GET  /stocks/financials/v1/income-statements
GET  /stocks/financials/v1/ratios
GET  /stocks/taxonomies/vX/disclosures
GET  /stocks/taxonomies/vX/risk-factors
GET  /stocks/v1/dividends
GET  /stocks/v1/exchanges
GET  /stocks/v1/short-interest
GET  /stocks/v1/short-volume
GET  /stocks/v1/splits
GET  /stocks/vX/float
GET  /tmx/v1/corporate-events
GET  /v1/conversion/{from}/{to}
GET  /v1/historic/crypto/{from}/{to}/{date}
GET  /v1/historic/forex/{from}/{to}/{date}
GET  /v1/indicators/ema/{ticker}
GET  /v1/indicators/macd/{ticker}
GET  /v1/indicators/rsi/{ticker}
GET  /v1/indicators/sma/{ticker}
GET  /v1/last/crypto/{from}/{to}
GET  /v1/last_quote/currencies/{from}/{to}
GET  /v1/marketstatus/now
GET  /v1/marketstatus/upcoming
GET  /v1/open-close/crypto/{from}/{to}/{date}
GET  /v1/open-close/{ticker}/{date}
GET  /v1/related-companies/{ticker}
GET  /v1/summaries
GET  /v2/aggs/grouped/locale/global/market/crypto/{date}
GET  /v2/aggs/grouped/locale/global/market/fx/{date}
GET  /v2/aggs/grouped/locale/us/market/stocks/{date}
GET  /v2/aggs/ticker/{ticker}/prev
GET  /v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{from}/{to}
GET  /v2/last/nbbo/{ticker}
GET  /v2/last/trade/{ticker}
GET  /v2/reference/news
GET  /v2/snapshot/locale/global/markets/crypto/tickers
GET  /v2/snapshot/locale/global/markets/crypto/tickers/{ticker}
GET  /v2/snapshot/locale/global/markets/crypto/tickers/{ticker}/book
GET  /v2/snapshot/locale/global/markets/crypto/{direction}
GET  /v2/snapshot/locale/global/markets/forex/tickers
GET  /v2/snapshot/locale/global/markets/forex/tickers/{ticker}
GET  /v2/snapshot/locale/global/markets/forex/{direction}
GET  /v2/snapshot/locale/us/markets/stocks/tickers
GET  /v2/snapshot/locale/us/markets/stocks/tickers/{ticker}
GET  /v2/snapshot/locale/us/markets/stocks/{direction}
GET  /v2/ticks/stocks/nbbo/{ticker}/{date}
GET  /v2/ticks/stocks/trades/{ticker}/{date}
GET  /v3/quotes/{ticker}
GET  /v3/reference/conditions
GET  /v3/reference/dividends
GET  /v3/reference/exchanges
GET  /v3/reference/options/contracts
GET  /v3/reference/options/contracts/{ticker}
GET  /v3/reference/splits
GET  /v3/reference/tickers
GET  /v3/reference/tickers/types
GET  /v3/reference/tickers/{ticker}
GET  /v3/snapshot
GET  /v3/snapshot/indices
GET  /v3/snapshot/options/{underlyingAsset}
GET  /v3/snapshot/options/{underlyingAsset}/{optionContract}
GET  /v3/trades/{ticker}
GET  /vX/reference/financials
GET  /vX/reference/ipos
GET  /vX/reference/tickers/{id}/events
"""

_ENDPOINTS: Endpoints[Literal["data"]] = Endpoints({"data": _DATA})


class Polygon:
    """What Polygon is to this service. Implements `Provider`."""

    credential_type = "polygon"
    needs_secret_key = False
    has_account_types = False

    def __init__(self, client: httpx.AsyncClient, base_url: str) -> None:
        self._client = client
        self._base_url = base_url.rstrip("/")

    @classmethod
    def configured(cls, client: httpx.AsyncClient, settings: ProviderSettings) -> Self:
        """At `POLYGON_BASE_URL`."""
        return cls(client, settings.polygon_base_url)

    def headers(
        self,
        api_key: Plaintext,
        secret_key: Plaintext,  # noqa: ARG002 - the protocol's; Polygon has one key
    ) -> dict[str, str]:
        """What authenticates a request. A string, which can't be wiped: make it at the last moment."""
        # Not Polygon's `apiKey` query parameter: URLs are logged, by httpx too.
        return {"Authorization": f"Bearer {header_text(api_key, 'api_key')}"}

    def base_url(
        self,
        method: str,
        path: str,
        query: str,
        account_type: AccountType | None,  # noqa: ARG002 - the protocol's; Polygon has none
    ) -> str:
        """The one base URL.

        Raises:
            ProxyRefused: this is no endpoint in the table above.
            InvalidInput: the query names a key, which would go before the credential's own, and be logged with the URL.
        """
        _ENDPOINTS.host(method, path)
        if any("apikey" in name for name in names_in_query(query)):
            raise InvalidInput("query", "must not name a key: the credential's own is added")
        return self._base_url

    def refuses_keys(self, status: int) -> bool:
        """401. A 403 is about the key's plan."""
        return status == httpx.codes.UNAUTHORIZED

    def accepts_keys(self, status: int, path: str) -> bool:  # noqa: ARG002 - the protocol's; nothing is told everybody
        """Success."""
        return is_success(status)

    async def validate(
        self,
        api_key: Plaintext,
        secret_key: Plaintext,
    ) -> ProviderVerdict:
        """Whether Polygon knows the key. `secret_key` isn't sent; there is no account type. Asked once.

        A key whose plan lacks even this (403, `NOT_AUTHORIZED`) is a good key: one that Polygon doesn't know
        gets 401.

        Raises:
            InvalidInput: the key can't be sent.
            ProviderUnavailable: (and its kinds) Polygon couldn't be asked.
        """
        url = f"{self._base_url}/v1/marketstatus/now"
        answer = await ask(self._client, url, lambda: self.headers(api_key, secret_key), provider=self.credential_type)
        if answer.status == 401:
            return ProviderVerdict(is_valid=False)
        said = answer.json_object() or {}
        if answer.status == 403:
            if said.get("status") != "NOT_AUTHORIZED":
                raise ProviderRefused
        elif not isinstance(said.get("market"), str) and said.get("status") != "OK":
            raise ProviderUnavailable("Polygon's answer is not a market status.")
        return ProviderVerdict(is_valid=True)
