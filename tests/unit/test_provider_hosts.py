"""Where each provider's calls go, what authenticates them, and which further providers a setting may name."""

import sys
from types import ModuleType
from typing import Any

import httpx
import pytest

from service.errors import AccountTypeUnknown, ConfigurationError, InvalidInput, ProxyRefused
from service.memory.plaintext import Plaintext
from service.modules.records import AccountType
from service.providers.alpaca import Alpaca, AlpacaHosts
from service.providers.polygon import Polygon
from service.providers.registry import Providers, credential_types, provider_classes
from service.settings import ProviderSettings
from tests.third_provider import Finnhub

PAPER, LIVE, DATA = AlpacaHosts().paper, AlpacaHosts().live, AlpacaHosts().data
STAND_IN = "https://stand-in.example"


def alpaca(base_url: str = PAPER, data_url: str | None = None) -> Alpaca:
    return Alpaca(httpx.AsyncClient(), base_url, data_url=data_url)


@pytest.mark.parametrize(
    ("base_url", "data_url", "path", "account_type", "expected"),
    [
        (PAPER, None, "/v2/account", "paper", PAPER),
        (PAPER, None, "/v2/account", "live", LIVE),
        (LIVE, None, "/v2/account", "paper", PAPER),
        (LIVE, None, "/v2/account", "live", LIVE),
        (PAPER, None, "/v2/stocks/AAPL/bars", "paper", DATA),
        (PAPER, None, "/v2/stocks/AAPL/bars", None, DATA),
        (f"{PAPER}/v2", None, "/v2/account", "paper", PAPER),
        (STAND_IN, None, "/v2/account", None, STAND_IN),
        (STAND_IN, None, "/v2/account", "live", STAND_IN),
        (STAND_IN, None, "/v2/stocks/AAPL/bars", None, STAND_IN),  # a stand-in's keys don't go to Alpaca
        (STAND_IN, "https://data.example", "/v2/stocks/AAPL/bars", None, "https://data.example"),
        (PAPER, "https://data.example", "/v2/stocks/AAPL/bars", "live", "https://data.example"),
    ],
)
def test_a_call_goes_to_the_host_of_its_account_and_kind(
    base_url: str, data_url: str | None, path: str, account_type: AccountType | None, expected: str
) -> None:
    assert alpaca(base_url, data_url).base_url("GET", path, "", account_type) == expected


def test_a_trade_whose_account_is_not_known_goes_nowhere() -> None:
    with pytest.raises(AccountTypeUnknown):
        alpaca().base_url("POST", "/v2/orders", "", None)


def test_massive_is_polygon_under_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_BASE_URL", "https://api.massive.com/")
    provider = Polygon.configured(httpx.AsyncClient(), ProviderSettings())
    assert provider.base_url("GET", "/v2/last/trade/AAPL", "", None) == "https://api.massive.com"


@pytest.mark.parametrize("query", ["a=1&apiKey=x", "apiKey[0]=x", "apiKey%3Dx", "my_api-key=x"])
def test_of_polygon_a_key_in_the_query_is_refused(query: str) -> None:
    provider = Polygon(httpx.AsyncClient(), "https://api.polygon.io")
    with pytest.raises(InvalidInput) as caught:
        provider.base_url("GET", "/v2/last/trade/AAPL", query, None)
    assert caught.value.field == "query"


@pytest.mark.parametrize("key", ["a\r\nX-Injected: 1", "a\nb", "a\0", "é", ""])
def test_a_key_that_could_begin_another_header_is_not_sent(key: str) -> None:
    with Plaintext.copy_of(key) as bad, Plaintext.copy_of("good") as good:
        polygon = Polygon(httpx.AsyncClient(), PAPER)
        for provider, pair in ((alpaca(), (bad, good)), (alpaca(), (good, bad)), (polygon, (bad, good))):
            with pytest.raises(InvalidInput) as caught:
                provider.headers(*pair)
            assert "Injected" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "status", "refuses", "accepts"),
    [
        ("/v2/account", 200, False, True),
        ("/v2/orders", 204, False, True),
        ("/v2/account", 401, True, False),
        ("/v2/account", 403, False, False),
        ("/v2/account", 500, False, False),
        ("/v1beta3/crypto/us/latest/bars", 200, False, False),  # told everybody
    ],
)
def test_what_a_status_says_of_the_keys(path: str, status: int, refuses: bool, accepts: bool) -> None:
    assert alpaca().refuses_keys(status) is refuses
    assert alpaca().accepts_keys(status, path) is accepts


# --- further providers ------------------------------------------------------------------------------------------------


def _named(monkeypatch: pytest.MonkeyPatch, **members: Any) -> str:
    module = ModuleType("given_by_a_test")
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, "given_by_a_test", module)
    return "given_by_a_test"


def _class(name: object) -> type:
    return type("Given", (), {"credential_type": name, "configured": classmethod(lambda *_: None)})


def test_a_further_provider_is_one_that_a_setting_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_EXTRA_PROVIDERS", '["tests.third_provider:Finnhub"]')
    monkeypatch.setenv("FINNHUB_BASE_URL", STAND_IN)
    settings = ProviderSettings()
    assert [*provider_classes(settings)] == [Alpaca, Polygon, Finnhub]  # type: ignore[comparison-overlap]  # a protocol's
    assert credential_types(settings) == {"alpaca", "finnhub", "polygon"}
    providers = Providers.configured(httpx.AsyncClient(), settings)
    assert list(providers) == ["alpaca", "finnhub", "polygon"]
    assert providers.account_typed == {"alpaca"}
    with pytest.raises(ProxyRefused):
        providers["finnhub"].base_url("POST", "/api/v1/quote", "", None)


def test_an_unknown_type_is_refused_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_EXTRA_PROVIDERS", raising=False)
    providers = Providers.configured(httpx.AsyncClient(), ProviderSettings())
    for look in (providers.__getitem__, providers.get):
        with pytest.raises(InvalidInput, match="must be one of: alpaca, polygon") as caught:
            look("binance")
        assert caught.value.field == "credential_type"
        assert "binance" not in str(caught.value)
    assert "binance" not in providers


@pytest.mark.parametrize(
    "name", ["no.such.module:Class", "tests.third_provider:Missing", "tests.third_provider", "os:path", "", ":", "a b"]
)
def test_what_is_no_providers_class_is_refused_at_start(name: str) -> None:
    with pytest.raises(ConfigurationError, match="CREDENTIALS_EXTRA_PROVIDERS"):
        provider_classes(ProviderSettings(extra_providers=(name,)))


@pytest.mark.parametrize(
    "name", ["", "a", "Finnhub", "fin nhub", "-a", "a-", "a" * 33, "fin_nhub", "a/b", "é1", None, 1]
)
def test_a_type_whose_name_could_mean_something_in_a_policy_is_refused(
    name: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _named(monkeypatch, Given=_class(name))
    with pytest.raises(ConfigurationError, match="2 to 32 lower-case letters"):
        provider_classes(ProviderSettings(extra_providers=(f"{module}:Given",)))


@pytest.mark.parametrize("name", ["alpaca", "polygon", "idempotency", "events"])
def test_a_type_that_is_taken_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _named(monkeypatch, Given=_class(name))
    with pytest.raises(ConfigurationError, match="is taken already"):
        provider_classes(ProviderSettings(extra_providers=(f"{module}:Given",)))
