"""A third provider, which the service knows nothing of: all of it is this file and `CREDENTIALS_EXTRA_PROVIDERS`.

It is Finnhub (https://finnhub.io/docs/api/authentication): one key, in a header of its own. Of use to tests alone.
"""

import os
from typing import Self

import httpx

from service.errors import ConfigurationError, ProviderUnavailable
from service.memory.plaintext import Plaintext
from service.modules.records import AccountType, ProviderVerdict
from service.providers.endpoints import Endpoints
from service.providers.exchange import ask, header_text, is_success
from service.settings import ProviderSettings

_ENDPOINTS = Endpoints({"api": "GET /api/v1/quote\nGET /api/v1/stock/profile2"})


class Finnhub:
    """Implements `Provider`."""

    credential_type = "finnhub"
    needs_secret_key = False
    has_account_types = False

    def __init__(self, client: httpx.AsyncClient, base_url: str) -> None:
        self._client = client
        self._base_url = base_url

    @classmethod
    def configured(cls, client: httpx.AsyncClient, settings: ProviderSettings) -> Self:  # noqa: ARG003 - the protocol's
        try:
            return cls(client, os.environ["FINNHUB_BASE_URL"])
        except KeyError:
            raise ConfigurationError("FINNHUB_BASE_URL: is not set") from None

    def headers(self, api_key: Plaintext, secret_key: Plaintext) -> dict[str, str]:  # noqa: ARG002 - the protocol's
        return {"X-Finnhub-Token": header_text(api_key, "api_key")}

    def base_url(self, method: str, path: str, query: str, account_type: AccountType | None) -> str:  # noqa: ARG002
        _ENDPOINTS.host(method, path)
        return self._base_url

    def refuses_keys(self, status: int) -> bool:
        return status == httpx.codes.UNAUTHORIZED

    def accepts_keys(self, status: int, path: str) -> bool:  # noqa: ARG002 - the protocol's
        return is_success(status)

    async def validate(self, api_key: Plaintext, secret_key: Plaintext) -> ProviderVerdict:
        url = f"{self._base_url}/api/v1/quote?symbol=AAPL"
        answer = await ask(self._client, url, lambda: self.headers(api_key, secret_key), provider=self.credential_type)
        if answer.status not in (httpx.codes.OK, httpx.codes.UNAUTHORIZED):
            raise ProviderUnavailable
        return ProviderVerdict(is_valid=answer.status == httpx.codes.OK)
