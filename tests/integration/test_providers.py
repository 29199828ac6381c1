"""Every documented answer of a provider, and what goes wrong on the way, against real HTTP servers on loopback."""

import logging
import secrets
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from service.errors import InvalidInput, ProviderRefused, ProviderThrottled, ProviderUnavailable
from service.http_clients import provider_client
from service.memory.plaintext import Plaintext
from service.modules.ports import Provider
from service.modules.records import ProviderVerdict
from service.providers.alpaca import Alpaca, AlpacaHosts
from service.providers.polygon import Polygon
from service.providers.registry import Providers
from service.settings import Settings
from tests.doubles import alpaca as alpaca_answers
from tests.doubles import polygon as polygon_answers
from tests.doubles.alpaca import LIVE_NUMBER, PAPER_NUMBER, AlpacaDouble
from tests.doubles.polygon import PolygonDouble
from tests.doubles.scripted_server import (
    Answer,
    ScriptedServer,
    cut_answer,
    html_answer,
    huge_answer,
    json_answer,
    not_http_answer,
    raw_answer,
    redirect_answer,
    reset_answer,
)
from tests.evidence import every_log_line

API_KEY = f"PKCANARY{secrets.token_hex(12)}"
SECRET_KEY = f"canary/{secrets.token_hex(20)}"
VALID_PAPER = ProviderVerdict(is_valid=True, account_type="paper")
VALID_LIVE = ProviderVerdict(is_valid=True, account_type="live")
INVALID = ProviderVerdict(is_valid=False)
TIMEOUT = 2.0


@dataclass
class Asked:
    """A provider and the server that stands for it."""

    provider: Provider
    server: ScriptedServer
    accepted: ProviderVerdict
    throttled: Callable[[str | None], Answer]

    async def validate(self, api_key: str = API_KEY, secret_key: str = SECRET_KEY) -> ProviderVerdict:
        return await self.provider.validate(Plaintext.copy_of(api_key), Plaintext.copy_of(secret_key))


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(database_url="postgresql://unused", vault_addr="http://127.0.0.1:1", provider_timeout=TIMEOUT)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with provider_client(settings) as client:
        yield client


@pytest.fixture
async def alpaca(client: httpx.AsyncClient) -> AsyncIterator[Asked]:
    """Alpaca at a base URL that is neither of its own hosts, with one paper account."""
    async with AlpacaDouble() as server:
        server.open_account(API_KEY, SECRET_KEY)
        yield Asked(Alpaca(client, server.url), server, VALID_PAPER, alpaca_answers.throttled)


@pytest.fixture
async def polygon(client: httpx.AsyncClient) -> AsyncIterator[Asked]:
    async with PolygonDouble() as server:
        server.issue_key(API_KEY)
        accepted = ProviderVerdict(is_valid=True)
        yield Asked(Polygon(client, server.url), server, accepted, polygon_answers.throttled)


@pytest.fixture(params=["alpaca", "polygon"])
def asked(request: pytest.FixtureRequest, alpaca: Asked, polygon: Asked) -> Asked:
    return {"alpaca": alpaca, "polygon": polygon}[request.param]


@dataclass
class TwoHosts:
    """Alpaca's two environments, each a server of its own."""

    paper: AlpacaDouble
    live: AlpacaDouble
    client: httpx.AsyncClient

    async def validate(self, *, base: str) -> ProviderVerdict:
        hosts = AlpacaHosts(paper=self.paper.url, live=self.live.url)
        provider = Alpaca(self.client, getattr(hosts, base), hosts)
        return await provider.validate(Plaintext.copy_of(API_KEY), Plaintext.copy_of(SECRET_KEY))


@pytest.fixture
async def two_hosts(client: httpx.AsyncClient) -> AsyncIterator[TwoHosts]:
    async with AlpacaDouble() as paper, AlpacaDouble() as live:
        yield TwoHosts(paper, live, client)


# --- what is said of the keys ---------------------------------------------------------------------------------


async def test_accepted_keys_are_valid(asked: Asked) -> None:
    assert await asked.validate() == asked.accepted


async def test_unknown_keys_are_invalid(asked: Asked) -> None:
    assert await asked.validate(api_key="PKSOMEBODYELSE") == INVALID


@pytest.mark.parametrize("body", [b"", b"no", b"<html>", b'{"message": "unauthorized"}'])
async def test_401_is_about_the_keys_whatever_its_body(asked: Asked, body: bytes) -> None:
    asked.server.script(raw_answer(401, body))
    assert await asked.validate() == INVALID


async def test_alpaca_403_means_invalid(alpaca: Asked) -> None:
    alpaca.server.script(alpaca_answers.forbidden())
    assert await alpaca.validate() == INVALID


@pytest.mark.parametrize(("number", "verdict"), [(PAPER_NUMBER, VALID_PAPER), (LIVE_NUMBER, VALID_LIVE)])
async def test_alpaca_elsewhere_tells_paper_from_live_by_the_account_number(
    alpaca: Asked, number: str, verdict: ProviderVerdict
) -> None:
    alpaca.server.script(json_answer(200, alpaca_answers.account(number)))
    assert await alpaca.validate() == verdict


async def test_alpaca_is_sent_both_keys_in_its_headers_to_the_account_endpoint(alpaca: Asked) -> None:
    await alpaca.validate()
    (seen,) = alpaca.server.seen
    assert (seen.method, seen.path_qs) == ("GET", "/v2/account")
    assert seen.headers["APCA-API-KEY-ID"] == API_KEY
    assert seen.headers["APCA-API-SECRET-KEY"] == SECRET_KEY
    assert seen.headers["User-Agent"] == "vault-credentials"


async def test_alpaca_base_url_may_end_as_the_dashboard_shows_it(client: httpx.AsyncClient, alpaca: Asked) -> None:
    provider = Alpaca(client, f"{alpaca.server.url}/v2/")
    await provider.validate(Plaintext.copy_of(API_KEY), Plaintext.copy_of(SECRET_KEY))
    assert [seen.path_qs for seen in alpaca.server.seen] == ["/v2/account"]


async def test_polygon_403_not_authorized_is_a_good_key_with_a_small_plan(polygon: Asked) -> None:
    polygon.server.script(polygon_answers.not_authorized())
    assert await polygon.validate() == ProviderVerdict(is_valid=True)


async def test_polygon_403_of_another_kind_says_nothing_of_the_key(polygon: Asked) -> None:
    polygon.server.script(json_answer(403, {"status": "ERROR"}))
    with pytest.raises(ProviderRefused):
        await polygon.validate()


async def test_polygon_needs_no_secret_key_and_is_sent_none_and_no_key_in_the_url(polygon: Asked) -> None:
    assert polygon.provider.needs_secret_key is False
    assert await polygon.validate(secret_key="") == ProviderVerdict(is_valid=True)
    assert await polygon.validate(secret_key=SECRET_KEY) == ProviderVerdict(is_valid=True)
    for seen in polygon.server.seen:
        assert seen.path_qs == "/v1/marketstatus/now"
        assert seen.headers["Authorization"] == f"Bearer {API_KEY}"
        assert SECRET_KEY not in repr(seen)


# --- Alpaca's two hosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["paper", "live"])
async def test_host_that_accepts_tells_the_account_type(two_hosts: TwoHosts, base: str) -> None:
    # The account number says the opposite, to show that it isn't what decides.
    two_hosts.paper.open_account(API_KEY, SECRET_KEY, LIVE_NUMBER)
    assert await two_hosts.validate(base=base) == VALID_PAPER
    two_hosts.paper.close_account(API_KEY, SECRET_KEY)
    two_hosts.live.open_account(API_KEY, SECRET_KEY, PAPER_NUMBER)
    assert await two_hosts.validate(base=base) == VALID_LIVE


async def test_other_host_is_not_asked_when_the_first_accepts(two_hosts: TwoHosts) -> None:
    two_hosts.paper.open_account(API_KEY, SECRET_KEY)
    await two_hosts.validate(base="paper")
    assert two_hosts.live.seen == []


@pytest.mark.parametrize("refusal", [alpaca_answers.unauthorized, alpaca_answers.forbidden])
@pytest.mark.parametrize("base", ["paper", "live"])
async def test_keys_are_invalid_when_both_hosts_refuse(
    two_hosts: TwoHosts, base: str, refusal: Callable[[], Answer]
) -> None:
    two_hosts.paper.script(refusal())
    two_hosts.live.script(refusal())
    assert await two_hosts.validate(base=base) == INVALID
    assert (len(two_hosts.paper.seen), len(two_hosts.live.seen)) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (json_answer(503, {}), ProviderUnavailable),
        (reset_answer, ProviderUnavailable),
        (html_answer(200), ProviderUnavailable),
        (html_answer(403), ProviderRefused),
        (alpaca_answers.throttled("7"), ProviderThrottled),
    ],
)
async def test_keys_are_not_invalid_when_the_other_host_cannot_be_asked(
    two_hosts: TwoHosts, answer: Answer, error: type[ProviderUnavailable]
) -> None:
    two_hosts.live.script(answer)
    with pytest.raises(error):
        await two_hosts.validate(base="paper")
    assert len(two_hosts.paper.seen) == 1


async def test_other_host_is_not_asked_when_the_first_cannot_be(two_hosts: TwoHosts) -> None:
    two_hosts.paper.script(json_answer(500, {}))
    with pytest.raises(ProviderUnavailable):
        await two_hosts.validate(base="paper")
    assert two_hosts.live.seen == []


@pytest.mark.parametrize(
    ("base_url", "account_type"),
    [
        ("https://paper-api.alpaca.markets", "paper"),
        ("https://api.alpaca.markets", "live"),
        ("https://API.alpaca.markets:443", "live"),
        ("http://api.alpaca.markets", None),
        ("https://api.alpaca.markets.example.com", None),
        ("https://broker-api.alpaca.markets", None),
    ],
)
def test_alpacas_own_hosts_are_known_by_scheme_host_and_port(base_url: str, account_type: str | None) -> None:
    assert AlpacaHosts().account_type(base_url) == account_type


# --- could not ask: never "invalid" -----------------------------------------------------------------------------


UNAVAILABLE: dict[str, Answer] = {
    "500": json_answer(500, {"message": "internal server error"}),
    "502 page": html_answer(502),
    "503": raw_answer(503, b""),
    "504": raw_answer(504, b""),
    "not JSON": html_answer(200),
    "empty": raw_answer(200, b""),
    "broken JSON": raw_answer(200, b'{"account_number": "PA'),
    "bad UTF-8": raw_answer(200, b'{"account_number": "\xff\xfe"}'),
    "deep JSON": raw_answer(200, b"[" * 60_000),
    "JSON array": json_answer(200, []),
    "JSON null": json_answer(200, None),
    "another object": json_answer(200, {"hello": "world"}),
    "wrong types": json_answer(200, {"account_number": 1, "market": 1, "status": 1}),
    "empty values": json_answer(200, {"account_number": "", "status": ""}),
    "huge": huge_answer(200, 50_000_000),
    "huge refusal": huge_answer(401, 50_000_000),
    "compressed": raw_answer(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}),
    "reset": reset_answer,
    "cut short": cut_answer(200),
    "not HTTP": not_http_answer,
}
REFUSED: dict[str, Answer] = {
    "301": redirect_answer("/elsewhere", 301),
    "302": redirect_answer("/elsewhere", 302),
    "307": redirect_answer("/elsewhere", 307),
    "204": raw_answer(204, b""),
    "400": json_answer(400, {}),
    "404": json_answer(404, {}),
    "407": raw_answer(407, b""),
    "firewall's 403": html_answer(403),
}


@pytest.mark.parametrize("answer", UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
async def test_what_is_no_answer_is_unavailable_and_asked_once(asked: Asked, answer: Answer) -> None:
    asked.server.script(answer)
    with pytest.raises(ProviderUnavailable) as caught:
        await asked.validate()
    assert type(caught.value) is ProviderUnavailable
    assert len(asked.server.seen) == 1


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_not_about_the_keys_is_refused_and_no_redirect_followed(asked: Asked, answer: Answer) -> None:
    asked.server.script(answer)
    with pytest.raises(ProviderRefused):
        await asked.validate()
    assert len(asked.server.seen) == 1


async def test_silent_provider_is_unavailable_within_the_time_out(asked: Asked) -> None:
    asked.server.script(asked.server.silent)
    started = time.monotonic()
    with pytest.raises(ProviderUnavailable, match="in time"):
        await asked.validate()
    assert time.monotonic() - started < TIMEOUT * 4


async def test_provider_that_trickles_is_unavailable_within_the_time_out(asked: Asked) -> None:
    asked.server.script(asked.server.trickle)
    started = time.monotonic()
    with pytest.raises(ProviderUnavailable, match="in time"):
        await asked.validate()
    assert time.monotonic() - started < TIMEOUT * 4


async def test_provider_that_is_not_there_is_unavailable(client: httpx.AsyncClient) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody answers there, nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for provider in (Alpaca(client, base_url), Polygon(client, base_url)):
            with pytest.raises(ProviderUnavailable):
                await provider.validate(Plaintext.copy_of(API_KEY), Plaintext.copy_of(SECRET_KEY))


async def test_next_question_is_answered_after_a_failed_one(asked: Asked) -> None:
    asked.server.script(reset_answer, huge_answer(200, 50_000_000), asked.server.silent)
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            await asked.validate()
    assert await asked.validate() == asked.accepted


# --- 429 and Retry-After ----------------------------------------------------------------------------------------


def _http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("30", 30, 30),
        ("0", 0, 0),
        ("999999", 3600, 3600),
        ("9" * 5000, 3600, 3600),
        (1800, 1500, 1800),
        (-600, 0, 0),
        (999_999, 3600, 3600),
    ],
    ids=["seconds", "zero", "too many", "far too many", "date", "past date", "far date"],
)
async def test_throttled_says_how_long_to_wait(asked: Asked, header: str | int, least: float, most: float) -> None:
    # A number is a date so far from now, which is when the test runs and not when tests are collected.
    asked.server.script(asked.throttled(header if isinstance(header, str) else _http_date(header)))
    with pytest.raises(ProviderThrottled) as caught:
        await asked.validate()
    assert caught.value.retry_after is not None
    assert least <= caught.value.retry_after <= most


@pytest.mark.parametrize("header", [None, "", "soon", "-5", "1.5", "Mon, 99 Foo 2026 99:99:99 GMT", "²"])
async def test_throttled_without_a_usable_retry_after_says_none(asked: Asked, header: str | None) -> None:
    asked.server.script(asked.throttled(header))
    with pytest.raises(ProviderThrottled) as caught:
        await asked.validate()
    assert caught.value.retry_after is None


async def test_503_passes_its_retry_after_on(asked: Asked) -> None:
    asked.server.script(json_answer(503, {}, {"Retry-After": "12"}))
    with pytest.raises(ProviderUnavailable) as caught:
        await asked.validate()
    assert caught.value.retry_after == 12


# --- what is never sent, and never told -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "new\r\nline", "new\nline", "nul\0", "tab\t", "\x7f", "schlüssel", "\ud800"])
async def test_key_that_is_not_printable_ascii_is_never_sent(asked: Asked, bad: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await asked.validate(api_key=bad)
    assert caught.value.field == "api_key"
    if asked.provider.needs_secret_key:
        with pytest.raises(InvalidInput) as caught:
            await asked.validate(secret_key=bad)
        assert caught.value.field == "secret_key"
    assert asked.server.seen == []


async def test_cookies_of_one_answer_are_not_sent_with_the_next_request(asked: Asked) -> None:
    asked.server.script(json_answer(401, {}, {"Set-Cookie": "session=somebody; Path=/"}))
    await asked.validate()
    await asked.validate()
    assert [seen.headers.get("Cookie") for seen in asked.server.seen] == [None, None]


async def test_proxies_of_the_environment_are_not_used(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert await asked.validate() == asked.accepted


def _everything_told(error: BaseException) -> str:
    """An error as a thorough reporter prints it: with locals, and with all it is chained to, shown or not."""
    told, errors = [], [error]
    while errors:
        current = errors.pop()
        report = traceback.TracebackException.from_exception(current, capture_locals=True)
        told.append("".join(report.format()) + repr(current) + repr(current.__dict__))
        request = getattr(current, "_request", None)
        told.append(repr(request and request.headers.raw))
        errors += [other for other in (current.__cause__, current.__context__) if other is not None]
    return "\n".join(told)


@pytest.mark.parametrize(
    "answer",
    [*UNAVAILABLE.values(), *REFUSED.values(), alpaca_answers.throttled("1")],
    ids=[*UNAVAILABLE.keys(), *REFUSED.keys(), "429"],
)
async def test_no_error_and_no_log_line_tells_a_key(
    asked: Asked, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    asked.server.script(answer)
    keys = (Plaintext.copy_of(API_KEY), Plaintext.copy_of(SECRET_KEY))
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderUnavailable) as caught:
        await asked.provider.validate(*keys)
    assert any(API_KEY in repr(seen) for seen in asked.server.seen)  # it was sent, so it could have been told
    told = _everything_told(caught.value) + caplog.text + repr([vars(record) for record in caplog.records])
    for key in (API_KEY, SECRET_KEY):
        assert key not in told
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_accepted_keys_leave_nothing_in_the_logs(asked: Asked) -> None:
    with every_log_line() as lines:
        assert await asked.validate() == asked.accepted
    assert lines  # httpx logs its requests: the capture works
    for key in (API_KEY, SECRET_KEY):
        assert key not in "\n".join(lines)


# --- the registry -----------------------------------------------------------------------------------------------


def test_registry_knows_each_provider_by_its_type(client: httpx.AsyncClient, settings: Settings) -> None:
    providers = Providers.configured(client, settings)
    assert list(providers) == ["alpaca", "polygon"]
    assert isinstance(providers["alpaca"], Alpaca)
    assert isinstance(providers["polygon"], Polygon)


@pytest.mark.parametrize("credential_type", ["binance", "", "Alpaca", "alpaca ", "alpaca\0"])
def test_registry_refuses_an_unknown_type_and_names_the_known(
    client: httpx.AsyncClient, settings: Settings, credential_type: str
) -> None:
    providers = Providers.configured(client, settings)
    with pytest.raises(InvalidInput, match=r"^credential_type: must be one of: alpaca, polygon$"):
        providers[credential_type]
    assert credential_type not in providers


def test_third_provider_needs_nothing_but_its_own_class(client: httpx.AsyncClient, settings: Settings) -> None:
    class Third(Polygon):
        credential_type = "a-third"

    third = Third(client, "https://third.example.com")
    providers = Providers([*Providers.configured(client, settings).values(), third])
    assert list(providers) == ["a-third", "alpaca", "polygon"]
    assert providers["a-third"] is third
