"""Which providers there are. A new one is one module here, one line in `configured`, one test."""

from collections.abc import Iterable, Iterator, Mapping

import httpx

from service.errors import InvalidInput
from service.modules.ports import Provider
from service.providers.alpaca import Alpaca
from service.providers.polygon import Polygon
from service.settings import ProviderSettings

CREDENTIAL_TYPES = frozenset({Alpaca.credential_type, Polygon.credential_type})
"""What those that ask no provider know of them."""


class Providers(Mapping[str, Provider]):
    """The providers by credential type, in alphabetical order.

    An unknown type raises InvalidInput, from `[]` and from `get` alike; `in` answers.
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers = {
            provider.credential_type: provider
            for provider in sorted(providers, key=lambda provider: provider.credential_type)
        }

    @classmethod
    def configured(cls, client: httpx.AsyncClient, settings: ProviderSettings) -> "Providers":
        """Every provider, at the settings' base URLs, over a client from `http_clients.provider_client`."""
        return cls([Alpaca(client, settings.alpaca_base_url), Polygon(client, settings.polygon_base_url)])

    def __getitem__(self, credential_type: str) -> Provider:
        try:
            return self._providers[credential_type]
        except KeyError:
            raise InvalidInput("credential_type", f"must be one of: {', '.join(self._providers)}") from None

    def __contains__(self, credential_type: object) -> bool:
        return credential_type in self._providers

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)
