"""Rate limits over REST and in the library, with real servers: what is refused, whose budget it is, what is told."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.composition import close_process_runtime, configure
from service.errors import RateLimited
from service.modules.credential_service import get_decrypted_alpaca_credential, get_decrypted_credential
from tests.doubles.alpaca import AlpacaDouble
from tests.evidence import AuditLog
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection

# https://www.rfc-editor.org/rfc/rfc9651: a list of strings with integers as parameters, as the draft writes them.
_FIELD = re.compile(r'"(?P<name>[a-z]+)"(?P<parameters>(?:;[a-z]+=[0-9]+)+)')


def told(answer: httpx.Response, field: str) -> dict[str, dict[str, int]]:
    """A `RateLimit` field, parsed."""
    (value,) = answer.headers.get_list(field)
    read = {}
    for item in value.split(", "):
        found = _FIELD.fullmatch(item)
        assert found is not None, value
        parameters = [each.split("=") for each in found["parameters"].split(";")[1:]]
        read[found["name"]] = {name: int(number) for name, number in parameters}
    return read


def left(answer: httpx.Response) -> dict[str, int]:
    return {name: each["r"] for name, each in told(answer, "RateLimit").items()}


EVENTS = "SELECT count(*) FROM credential_events WHERE acting_user = ANY($1)"


def asked_of(log: AuditLog) -> list[str]:
    """The paths of keys and ciphertexts that Vault was asked for."""
    paths = [entry["request"]["path"] for entry in log.entries()]
    return [path for path in paths if path.startswith(("transit/", "credentials/"))]


Ask = Callable[[httpx.AsyncClient, Headers, dict[str, Any]], Any]


async def _hand_off(client: httpx.AsyncClient, headers: Headers, made: dict[str, Any]) -> httpx.Response:
    return await client.post(f"/v1/credentials/{made['id']}/handoff", headers=headers)


async def _validate_given(client: httpx.AsyncClient, headers: Headers, _made: dict[str, Any]) -> httpx.Response:
    keys = {name: new_body()[name] for name in ("api_key", "secret_key")}
    return await client.post("/v1/credentials/validate", json=keys, headers=headers)


async def _validate_stored(client: httpx.AsyncClient, headers: Headers, made: dict[str, Any]) -> httpx.Response:
    return await client.post(f"/v1/credentials/{made['id']}/validate", headers=headers)


async def _read(client: httpx.AsyncClient, headers: Headers, made: dict[str, Any]) -> httpx.Response:
    return await client.get(f"/v1/credentials/{made['id']}/proxy/v2/account", headers=headers)


async def _trade(client: httpx.AsyncClient, headers: Headers, made: dict[str, Any]) -> httpx.Response:
    order = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    return await client.post(f"/v1/credentials/{made['id']}/proxy/v2/orders", headers=headers, json=order)


WAYS: dict[str, tuple[Ask, str]] = {
    "handoff": (_hand_off, "handoffs"),
    "validate-given": (_validate_given, "validations"),
    "validate-stored": (_validate_stored, "validations"),
    "proxy": (_read, "proxy_calls"),
    "trade": (_trade, "proxy_calls"),
}
ways = pytest.mark.parametrize(("ask", "kind"), WAYS.values(), ids=WAYS)


@pytest.fixture(scope="module")
async def alpaca() -> AsyncIterator[AlpacaDouble]:
    async with AlpacaDouble() as server:
        yield server


@pytest.fixture
def limited(stack: Stack, alpaca: AlpacaDouble) -> Any:
    """`limited(kind, user, caller)`: a client of a service with these limits."""

    @asynccontextmanager
    async def client(kind: str, user: int, caller: int) -> AsyncIterator[httpx.AsyncClient]:
        limits = {f"{kind}_per_minute": user, f"{kind}_per_minute_caller": caller}
        async with client_on(stack.settings(alpaca_base_url=alpaca.url, **limits)) as made:
            yield made

    return client


@pytest.fixture
def robot(bearer: Callable[..., Headers]) -> Headers:
    return {**bearer("orchestrator", "robot"), "X-User-Id": some_user()}


async def credential(client: httpx.AsyncClient, headers: Headers, alpaca: AlpacaDouble) -> dict[str, Any]:
    """One that is validated, so that its account type is known."""
    keys = new_body()
    alpaca.open_account(keys["api_key"], keys["secret_key"])
    return await stored(client, headers, **keys)


async def paper(conn: Connection, made: dict[str, Any]) -> None:
    """Its account type is known, without a validation that counts."""
    await conn.execute("UPDATE credentials SET account_type = 'paper' WHERE id = $1::text::uuid", made["id"])


@ways
async def test_a_users_limit_refuses_what_is_more_and_leaves_others_alone(
    ask: Ask,
    kind: str,
    limited: Any,
    robot: Headers,
    alpaca: AlpacaDouble,
    owner_conn: Connection,
    stack: Stack,
) -> None:
    async with limited(kind, 3, 100) as client:
        made = await credential(client, robot, alpaca)
        await paper(owner_conn, made)
        for number in range(3):
            answer = await ask(client, robot, made)
            assert answer.is_success, answer.text
            assert told(answer, "RateLimit-Policy") == {"caller": {"q": 100, "w": 60}, "user": {"q": 3, "w": 60}}
            assert left(answer) == {"caller": 99 - number, "user": 2 - number}
        events = await owner_conn.fetchval(EVENTS, [robot["X-User-Id"]])
        seen, log = len(alpaca.seen), AuditLog(stack)
        answer = await ask(client, robot, made)
        status, name, retry_after = problem_of(answer)
        assert (status, name) == (429, "rate-limited")
        assert answer.headers["cache-control"] == "no-store"
        limits = told(answer, "RateLimit")
        assert (limits["user"]["r"], limits["caller"]["r"]) == (0, 97)
        assert retry_after is not None
        assert 0 < limits["user"]["t"] <= int(retry_after) <= 61
        # Nothing was sent, decided, recorded or decrypted.
        assert len(alpaca.seen) == seen
        assert asked_of(log) == []
        assert await owner_conn.fetchval(EVENTS, [robot["X-User-Id"]]) == events
        another = {**robot, "X-User-Id": some_user()}
        theirs = await credential(client, another, alpaca)
        await paper(owner_conn, theirs)
        assert (await ask(client, another, theirs)).is_success


@ways
async def test_a_callers_limit_counts_whomever_it_names(
    ask: Ask, kind: str, limited: Any, robot: Headers, bearer: Callable[..., Headers], alpaca: AlpacaDouble
) -> None:
    """What is refused for another reason counts too: an orchestrator that tries ids has a limit."""
    async with limited(kind, 100, 3) as client:
        for _ in range(3):
            answer = await ask(client, {**robot, "X-User-Id": some_user()}, {"id": uuid4()})
            assert answer.status_code in (200, 404)
            assert left(answer)["user"] == 99
        answer = await ask(client, {**robot, "X-User-Id": some_user()}, {"id": uuid4()})
        assert (problem_of(answer)[:2], left(answer)) == ((429, "rate-limited"), {"caller": 0, "user": 100})
        another = {**bearer("orchestrator", "another robot"), "X-User-Id": robot["X-User-Id"]}
        assert (await ask(client, another, {"id": uuid4()})).status_code in (200, 404)


@ways
async def test_who_may_not_ask_uses_nothing_of_anybodys(
    ask: Ask, kind: str, limited: Any, bearer: Callable[..., Headers], alpaca: AlpacaDouble
) -> None:
    user = some_user()
    async with limited(kind, 2, 2) as client:
        made = await credential(client, bearer("user", user), alpaca)
        strangers = [
            {**bearer("user", "mallory"), "X-User-Id": user},
            {**bearer("operator", "olga"), "X-User-Id": user},
            bearer("auditor", "audrey"),
            {"X-User-Id": user},
            {"Authorization": "Bearer nonsense", "X-User-Id": user},
            bearer("orchestrator", "robot"),
        ]
        for stranger in strangers * 2:
            answer = await ask(client, stranger, made)
            assert answer.status_code in (401, 403, 422)
            assert "ratelimit" not in answer.headers
        answer = await ask(client, {**bearer("orchestrator", "robot"), "X-User-Id": user}, {"id": uuid4()})
        assert left(answer) == {"caller": 1, "user": 1}


async def test_asking_for_anothers_credential_uses_ones_own_budget(
    limited: Any, robot: Headers, alpaca: AlpacaDouble
) -> None:
    stranger = {**robot, "X-User-Id": some_user("stranger")}
    async with limited("handoffs", 2, 0) as client:
        made = await credential(client, robot, alpaca)
        for _ in range(2):
            assert (await _hand_off(client, stranger, made)).status_code == 404
        assert (await _hand_off(client, stranger, made)).status_code == 429
        answer = await _hand_off(client, robot, made)
        assert (answer.status_code, left(answer)) == (200, {"user": 1})


async def test_of_a_hundred_at_once_exactly_the_quota_gets_through(
    limited: Any, robot: Headers, alpaca: AlpacaDouble, owner_conn: Connection
) -> None:
    async with limited("handoffs", 17, 0) as client:
        made = await credential(client, robot, alpaca)
        answers = await asyncio.gather(*(_hand_off(client, robot, made) for _ in range(100)))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(200), statuses.count(429)) == (17, 83)
        assert sorted(left(answer)["user"] for answer in answers if answer.status_code == 200) == list(range(17))
        granted = "SELECT count(*) FROM credential_events WHERE acting_user = $1 AND action = 'handoff'"
        assert await owner_conn.fetchval(granted, robot["X-User-Id"]) == 17
        refused = [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families((await client.get("/metrics")).text)
            for sample in family.samples
            if sample.name == "credentials_rate_limited_total"
        ]
        assert refused == [({"use": "handoff", "limit": "user"}, 83.0)]


async def test_a_bad_request_counts_and_is_told_how_the_limits_stand(limited: Any, robot: Headers) -> None:
    async with limited("handoffs", 5, 0) as client:
        answer = await client.post("/v1/credentials/nonsense/handoff", headers=robot, json={"ttl": 0})
        assert (answer.status_code, left(answer)) == (422, {"user": 4})


async def test_without_limits_nothing_is_told(limited: Any, robot: Headers, alpaca: AlpacaDouble) -> None:
    async with limited("handoffs", 0, 0) as client:
        made = await credential(client, robot, alpaca)
        for _ in range(5):
            answer = await _hand_off(client, robot, made)
            assert answer.status_code == 200
            assert not any("ratelimit" in name for name in answer.headers)


async def test_a_providers_own_limit_is_told_beside_ours(
    limited: Any, robot: Headers, alpaca: AlpacaDouble, owner_conn: Connection
) -> None:
    async with limited("proxy_calls", 5, 0) as client:
        made = await credential(client, robot, alpaca)
        await paper(owner_conn, made)
        answer = await _read(client, robot, made)
        assert answer.headers["x-answered-by"] == "provider"
        assert int(answer.headers["x-ratelimit-remaining"]) > 5
        assert left(answer) == {"user": 4}


@pytest.fixture
async def library(stack: Stack) -> AsyncIterator[None]:
    configure(stack.settings(opens_per_minute=2, opens_per_minute_caller=3))
    yield
    await close_process_runtime()
    configure(None)


@pytest.mark.usefixtures("library")
async def test_the_librarys_opens_have_a_limit_that_is_no_value_error(
    client: httpx.AsyncClient, bearer: Callable[..., Headers], owner_conn: Connection, stack: Stack
) -> None:
    users = [some_user(), some_user()]
    made = [await stored(client, bearer("user", user)) for user in users]

    async def opens(number: int, opening: Any = get_decrypted_credential) -> None:
        async with opening(None, made[number]["id"], users[number]):
            pass

    await opens(0)
    await opens(0, get_decrypted_alpaca_credential)
    log = AuditLog(stack)
    for opening in (get_decrypted_credential, get_decrypted_alpaca_credential):
        with pytest.raises(RateLimited) as raised:
            await opens(0, opening)
        assert not isinstance(raised.value, ValueError)
        assert 0 < (raised.value.retry_after or 0) <= 61
    assert asked_of(log) == []
    await opens(1)
    with pytest.raises(RateLimited):  # the program's
        await opens(1)
    assert await owner_conn.fetchval(EVENTS, users) == 5  # two were stored, three opened
