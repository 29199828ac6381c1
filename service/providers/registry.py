"""Which providers there are: those of this package, and those that a setting names.

A new one is one module: a class that implements `Provider`, its credential type as a class attribute, and `configured`,
which builds it. In this package it is named in `BUILT_IN`; anywhere else it is named by `CREDENTIALS_EXTRA_PROVIDERS`,
as `module:Class`. Its transit key and the Vault roles' rules about that come from its type's name
(`vault-policies/README.md`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pkgutil import resolve_name
from typing import Protocol, cast

import httpx

from service.errors import ConfigurationError, InvalidInput
from service.modules.ports import Provider
from service.providers.alpaca import Alpaca
from service.providers.polygon import Polygon
from service.settings import ProviderSettings

_TYPE = re.compile("[a-z][a-z0-9-]{0,30}[a-z0-9]")
_OTHER_KEYS = frozenset({"idempotency", "events"})
"""Transit keys of this service that are no type's."""


class ProviderClass(Protocol):
    """A class whose instances implement `Provider`."""

    @property
    def credential_type(self) -> str:
        """Lower-case letters, digits and `-`: it is part of the names of a transit key and of rules about it."""
        ...

    def configured(self, client: httpx.AsyncClient, settings: ProviderSettings) -> Provider:
        """Builds it over a client from `http_clients.provider_client`. What `settings` lack it reads by itself.

        Raises:
            ConfigurationError: a setting can't be used.
        """
        ...


BUILT_IN: tuple[ProviderClass, ...] = (Alpaca, Polygon)


def provider_classes(settings: ProviderSettings) -> list[ProviderClass]:
    """The built-in ones, then the setting's.

    Raises:
        ConfigurationError: one of the setting's can't be imported or used, or its type is another's.
    """
    classes = [*BUILT_IN, *(_named(name) for name in settings.extra_providers)]
    types = [each.credential_type for each in classes]
    if len(set(types)) < len(types) or not _OTHER_KEYS.isdisjoint(types):
        raise ConfigurationError("CREDENTIALS_EXTRA_PROVIDERS: a credential type's name is taken already")
    return classes


def credential_types(settings: ProviderSettings) -> frozenset[str]:
    """The types that there are, for those that ask no provider. Raises as `provider_classes`."""
    return frozenset(each.credential_type for each in provider_classes(settings))


def _named(name: str) -> ProviderClass:
    try:
        found = resolve_name(name)
    except Exception as error:
        raise ConfigurationError("CREDENTIALS_EXTRA_PROVIDERS: one of them can't be imported") from error
    if not isinstance(found, type) or not callable(getattr(found, "configured", None)):
        raise ConfigurationError("CREDENTIALS_EXTRA_PROVIDERS: one of them is no provider's class")
    if not _TYPE.fullmatch(str(getattr(found, "credential_type", ""))):
        raise ConfigurationError(
            "CREDENTIALS_EXTRA_PROVIDERS: a credential type's name is 2 to 32 lower-case letters, digits and `-`"
        )
    return cast("ProviderClass", found)


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
        """Every provider, at the settings' base URLs, over a client from `http_clients.provider_client`.

        Raises as `provider_classes` and their `configured`.
        """
        return cls(each.configured(client, settings) for each in provider_classes(settings))

    @property
    def account_typed(self) -> frozenset[str]:
        """The types whose accounts are paper or live."""
        return frozenset(name for name, provider in self._providers.items() if provider.has_account_types)

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
