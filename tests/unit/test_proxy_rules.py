"""Which calls a role may make: by setting, written as `METHOD /path`."""

import pytest
from pydantic import ValidationError

from service.errors import ProxyRefused
from service.modules.proxy_rules import ProxyRules
from service.use_settings import UseSettings

CASES = [
    (("GET /v2/*",), "GET", "/v2/account", True),
    (("GET /v2/*",), "HEAD", "/v2/account", True),
    (("GET /v2/*",), "GET", "/v2/a/b/c", True),
    (("GET /v2/*",), "POST", "/v2/orders", False),
    (("GET /v2/*",), "GET", "/v2", False),
    (("GET /v2/*",), "GET", "/v20/account", False),
    (("GET /v2/*",), "GET", "/x/v2/account", False),
    (("GET /v2/account",), "GET", "/v2/account", True),
    (("GET /v2/account",), "GET", "/v2/accounts", False),
    (("GET /v2/.ccount",), "GET", "/v2/account", False),  # no pattern but the star
    (("HEAD /v2/account",), "GET", "/v2/account", False),
    (("HEAD /v2/account",), "HEAD", "/v2/account", True),
    (("* /v2/orders",), "DELETE", "/v2/orders", True),
    (("POST /*",), "POST", "/v2/orders", True),
    (("GET /v2/account", "POST /v2/orders"), "POST", "/v2/orders", True),
    (("GET /v2/*/bars",), "GET", "/v2/stocks/AAPL/bars", True),
    (("GET /v2/*/bars",), "GET", "/v2/bars", False),
    (("GET /v2/*a*b*",), "GET", "/v2/ab", True),
    (("GET /v2/*a*b*",), "GET", "/v2/ba", False),
    (("GET /v2/aXa*aXa",), "GET", "/v2/aXaXa", False),  # nothing counts for two parts
    (("GET /*/*/x*x",), "GET", "/a/b/xx", True),
    (("GET /v2/*",), "GET", "/v2/", True),
    ((), "GET", "/v2/account", False),
]


@pytest.mark.parametrize(("rules", "method", "path", "allowed"), CASES)
def test_a_role_with_rules_may_call_what_one_of_them_says(
    rules: tuple[str, ...], method: str, path: str, allowed: bool
) -> None:
    given = ProxyRules({"user": rules})
    if allowed:
        given.check("user", method, path)
    else:
        with pytest.raises(ProxyRefused):
            given.check("user", method, path)
    given.check("orchestrator", method, path)  # has no rules


def test_no_rule_takes_long_however_many_stars_it_has() -> None:
    """Tried in every way, this would take longer than the test may."""
    given = ProxyRules({"user": ("GET /" + "*a" * 40 + "b",)})
    with pytest.raises(ProxyRefused):
        given.check("user", "GET", "/" + "a" * 1024)


def test_rules_come_from_the_environment_and_are_checked_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_PROXY_ALLOW", '{"user": ["GET /v2/*", "* /v1/*"], "orchestrator": []}')
    assert UseSettings().proxy_allow == {"user": ("GET /v2/*", "* /v1/*"), "orchestrator": ()}


@pytest.mark.parametrize(
    "given", ['{"admin": []}', '{"user": ["/v2"]}', '{"user": ["get /v2/*"]}', '{"user": ["GET v2"]}', '["GET /"]']
)
def test_a_rule_that_would_mean_nothing_is_refused_at_start(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_PROXY_ALLOW", given)
    with pytest.raises((ValidationError, ValueError)):
        UseSettings()
