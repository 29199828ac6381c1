"""Polygon's market-data API: one key, as a bearer token.

Sources: https://polygon.io/docs/indices/launchpad/get_v1_marketstatus_now (header, question); for who is answered
what, users' reports: https://github.com/alpacahq/alpaca-trade-api-python/issues/44 (401: a key that isn't known),
https://github.com/OpenBB-finance/OpenBB/issues/4747 (403 `NOT_AUTHORIZED`: a good key, outside its plan).
"""

import httpx

from service.errors import ProviderRefused, ProviderUnavailable
from service.memory.plaintext import Plaintext
from service.modules.records import ProviderVerdict
from service.providers.exchange import ask, header_text


class Polygon:
    """Asks Polygon something that every plan includes. Implements `Provider`."""

    credential_type = "polygon"
    needs_secret_key = False

    def __init__(self, client: httpx.AsyncClient, base_url: str) -> None:
        self._client = client
        self._base_url = base_url.rstrip("/")

    def headers(self, api_key: Plaintext) -> dict[str, str]:
        """What authenticates a request. A string, which can't be wiped: make it at the last moment."""
        # Not Polygon's `apiKey` query parameter: URLs are logged, by httpx too.
        return {"Authorization": f"Bearer {header_text(api_key, 'api_key')}"}

    async def validate(
        self,
        api_key: Plaintext,
        secret_key: Plaintext,  # noqa: ARG002 - the protocol's; Polygon has one key
    ) -> ProviderVerdict:
        """Whether Polygon knows the key. `secret_key` isn't sent; there is no account type. Asked once.

        A key whose plan lacks even this (403, `NOT_AUTHORIZED`) is a good key: one that Polygon doesn't know
        gets 401.

        Raises:
            InvalidInput: the key can't be sent.
            ProviderUnavailable: (and its kinds) Polygon couldn't be asked.
        """
        url = f"{self._base_url}/v1/marketstatus/now"
        answer = await ask(self._client, url, lambda: self.headers(api_key), provider=self.credential_type)
        if answer.status == 401:
            return ProviderVerdict(is_valid=False)
        said = answer.json_object() or {}
        if answer.status == 403:
            if said.get("status") != "NOT_AUTHORIZED":
                raise ProviderRefused
        elif not isinstance(said.get("market"), str) and said.get("status") != "OK":
            raise ProviderUnavailable("Polygon's answer is not a market status.")
        return ProviderVerdict(is_valid=True)
