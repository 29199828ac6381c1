"""Validating over REST, against an Alpaca that is a real HTTP server: a verdict, or "could not ask", never mixed up."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.doubles.alpaca import LIVE_NUMBER, PAPER_NUMBER, AlpacaDouble, account, forbidden, throttled
from tests.doubles.scripted_server import (
    Answer,
    cut_answer,
    html_answer,
    json_answer,
    not_http_answer,
    raw_answer,
    redirect_answer,
    reset_answer,
)
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.stored import some_user
from tests.support import Stack


@pytest.fixture(scope="module")
async def alpaca() -> AsyncIterator[AlpacaDouble]:
    async with AlpacaDouble() as server:
        yield server


@pytest.fixture(scope="module")
async def rest(stack: Stack, alpaca: AlpacaDouble) -> AsyncIterator[httpx.AsyncClient]:
    async with client_on(stack.settings(alpaca_base_url=alpaca.url, provider_timeout=3.0)) as client:
        yield client


@pytest.fixture
def user(bearer: Callable[..., Headers], alpaca: AlpacaDouble) -> Headers:
    alpaca.reset()
    return bearer("user", some_user())


def keys() -> dict[str, str]:
    body = new_body()
    return {name: body[name] for name in ("api_key", "secret_key")}


async def ask_both(rest: httpx.AsyncClient, user: Headers, pair: dict[str, str]) -> list[httpx.Response]:
    """The same keys, given and stored; and the stored credential's metadata after that."""
    made = await stored(rest, user, **pair)
    path = f"/v1/credentials/{made['id']}"
    return [
        await rest.post("/v1/credentials/validate", json=pair, headers=user),
        await rest.post(f"{path}/validate", headers=user),
        await rest.get(path, headers=user),
    ]


@pytest.mark.parametrize(("number", "account_type"), [(PAPER_NUMBER, "paper"), (LIVE_NUMBER, "live")])
async def test_keys_that_alpaca_takes_are_valid_and_of_their_account_type(
    number: str, account_type: str, rest: httpx.AsyncClient, user: Headers, alpaca: AlpacaDouble
) -> None:
    pair = keys()
    alpaca.open_account(pair["api_key"], pair["secret_key"], number)
    given, of_stored, after = await ask_both(rest, user, pair)
    for answer in (given, of_stored):
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert (answer.json()["is_valid"], answer.json()["account_type"]) == (True, account_type)
    assert (after.json()["validation_state"], after.json()["account_type"]) == ("valid", account_type)
    assert after.json()["last_validated_at"] is not None
    assert after.headers["etag"] == '"1"'  # nothing that the user changed
    assert len(alpaca.seen) == 2


@pytest.mark.parametrize("refusal", [None, forbidden()], ids=["401", "403"])
async def test_keys_that_alpaca_refuses_are_invalid(
    refusal: Answer | None, rest: httpx.AsyncClient, user: Headers, alpaca: AlpacaDouble
) -> None:
    if refusal is not None:
        alpaca.script(refusal, refusal)
    given, of_stored, after = await ask_both(rest, user, keys())
    for answer in (given, of_stored):
        assert answer.status_code == 200
        assert (answer.json()["is_valid"], answer.json()["account_type"]) == (False, None)
    assert (after.json()["validation_state"], after.json()["is_active"]) == ("invalid", True)


async def test_new_keys_are_unvalidated_again(rest: httpx.AsyncClient, user: Headers) -> None:
    made = await stored(rest, user)
    path = f"/v1/credentials/{made['id']}"
    await rest.post(f"{path}/validate", headers=user)
    answer = await rest.patch(path, json=keys(), headers=user)
    assert (answer.json()["validation_state"], answer.json()["last_validated_at"]) == ("unvalidated", None)


async def test_a_disabled_credential_can_be_validated_and_stays_disabled(
    rest: httpx.AsyncClient, user: Headers, alpaca: AlpacaDouble
) -> None:
    pair = keys()
    alpaca.open_account(pair["api_key"], pair["secret_key"])
    made = await stored(rest, user, **pair)
    path = f"/v1/credentials/{made['id']}"
    await rest.patch(path, json={"is_active": False}, headers=user)
    answer = await rest.post(f"{path}/validate", headers=user)
    assert (answer.status_code, answer.json()["is_valid"]) == (200, True)
    assert (await rest.get(path, headers=user)).json()["is_active"] is False


# What Alpaca may answer when it can't be asked; what is then told, and after how many seconds to try again.
TROUBLE: dict[str, tuple[Answer, str, str | None]] = {
    "429": (throttled(), "provider-throttled", "60"),
    "429 with Retry-After": (throttled("17"), "provider-throttled", "17"),
    "429 with an absurd Retry-After": (throttled("9" * 30), "provider-throttled", "3600"),
    "500": (json_answer(500, {"message": "oops"}), "provider-unavailable", "5"),
    "502 with a page": (html_answer(502), "provider-unavailable", "5"),
    "503 with Retry-After": (json_answer(503, {}, {"Retry-After": "30"}), "provider-unavailable", "30"),
    "200 and not JSON": (html_answer(200), "provider-unavailable", "5"),
    "200 and empty": (raw_answer(200, b""), "provider-unavailable", "5"),
    "200 and another object": (json_answer(200, {"ok": True}), "provider-unavailable", "5"),
    "200 and compressed": (raw_answer(200, b"x", {"Content-Encoding": "gzip"}), "provider-unavailable", "5"),
    "200 and cut off": (cut_answer(200), "provider-unavailable", "5"),
    "403 with a firewall's page": (html_answer(403), "provider-refused", None),
    "404": (json_answer(404, {}), "provider-refused", None),
    "a redirect": (redirect_answer("https://elsewhere.example/"), "provider-refused", None),
    "the connection broken": (reset_answer, "provider-unavailable", "5"),
    "not HTTP": (not_http_answer, "provider-unavailable", "5"),
}


@pytest.mark.parametrize(("answer", "problem", "retry_after"), TROUBLE.values(), ids=TROUBLE.keys())
async def test_what_could_not_be_asked_is_503_and_never_invalid(
    answer: Answer,
    problem: str,
    retry_after: str | None,
    rest: httpx.AsyncClient,
    user: Headers,
    alpaca: AlpacaDouble,
) -> None:
    alpaca.script(answer, answer)
    given, of_stored, after = await ask_both(rest, user, keys())
    assert problem_of(given) == problem_of(of_stored) == (503, problem, retry_after)
    assert (after.json()["validation_state"], after.json()["last_validated_at"]) == ("unvalidated", None)
    assert len(alpaca.seen) == 2  # each asked once


@pytest.mark.parametrize("how", ["silent", "trickle"])
async def test_no_answer_in_time_is_503_and_never_invalid(
    how: str, rest: httpx.AsyncClient, user: Headers, alpaca: AlpacaDouble
) -> None:
    alpaca.script(getattr(alpaca, how), getattr(alpaca, how))
    given, of_stored, after = await ask_both(rest, user, keys())
    assert problem_of(given) == problem_of(of_stored) == (503, "provider-unavailable", "5")
    assert after.json()["validation_state"] == "unvalidated"


async def test_an_alpaca_that_cannot_be_reached_is_503(stack: Stack, user: Headers) -> None:
    async with client_on(stack.settings(alpaca_base_url="http://127.0.0.1:1")) as rest:
        given, of_stored, after = await ask_both(rest, user, keys())
    assert problem_of(given) == problem_of(of_stored) == (503, "provider-unavailable", "5")
    assert after.json()["validation_state"] == "unvalidated"


async def test_an_earlier_verdict_outlives_an_attempt_that_failed(
    rest: httpx.AsyncClient, user: Headers, alpaca: AlpacaDouble
) -> None:
    pair = keys()
    alpaca.open_account(pair["api_key"], pair["secret_key"])
    made = await stored(rest, user, **pair)
    path = f"/v1/credentials/{made['id']}"
    assert (await rest.post(f"{path}/validate", headers=user)).status_code == 200
    alpaca.script(throttled())
    assert (await rest.post(f"{path}/validate", headers=user)).status_code == 503
    assert (await rest.get(path, headers=user)).json()["validation_state"] == "valid"


async def test_no_answer_repeats_what_alpaca_said(rest: httpx.AsyncClient, user: Headers, alpaca: AlpacaDouble) -> None:
    told: dict[str, Any] = account(PAPER_NUMBER)
    alpaca.script(json_answer(200, told), json_answer(200, told))
    for answer in await ask_both(rest, user, keys()):
        assert not any(str(told[name]) in answer.text for name in ("id", "account_number", "buying_power"))
