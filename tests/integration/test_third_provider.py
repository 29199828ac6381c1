"""A provider that the service knows nothing of is one file and a setting: stored, validated, called, rotated."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from service.localstack.provisioning import CREDENTIAL_TYPES
from tests.conftest import start_stack
from tests.doubles.scripted_server import ScriptedServer
from tests.keys import WORKER, Operator, callers
from tests.proxying import refusal
from tests.rest import client_on, new_body, problem_of
from tests.support import Stack, canary

NAME = "tests.third_provider:Finnhub"


class FinnhubDouble(ScriptedServer):
    """Knows one key."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    async def usual(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("X-Finnhub-Token") != self._key:
            return web.json_response({"error": "Invalid API key"}, status=401)
        return web.json_response({"c": 261.74})


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is provisioned for one type more, as `run` provisions it."""
    with start_stack(tmp_path_factory.mktemp("third"), types=(*CREDENTIAL_TYPES, "finnhub")) as started:
        yield started


async def test_a_third_provider_is_one_file_and_a_setting(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    bearer = callers(stack)
    owner, key = bearer("user", "third"), canary()
    async with FinnhubDouble(key) as finnhub:
        monkeypatch.setenv("FINNHUB_BASE_URL", finnhub.url)
        async with client_on(stack.settings(extra_providers=(NAME,), **WORKER)) as client:
            body = new_body(credential_type="finnhub", api_key=key, secret_key="")
            made = await client.post("/v1/credentials", json=body, headers=owner)
            assert made.status_code == 201, made.text
            address = f"/v1/credentials/{made.json()['id']}"
            verdict = await client.post(f"{address}/validate", headers=owner)
            assert verdict.json()["is_valid"] is True
            answer = await client.get(f"{address}/proxy/api/v1/quote?symbol=AAPL", headers=owner)
            assert (answer.json(), answer.headers["x-answered-by"]) == ({"c": 261.74}, "provider")
            assert finnhub.seen[-1].headers["x-finnhub-token"] == key
            refused = await client.get(f"{address}/proxy/api/v1/webhook/add", headers=owner)
            assert refusal(refused) == (403, "proxy-refused")
            # Its key is rotated, and what was under it rewrapped, by the roles that the stack made.
            operator = Operator(client, bearer("operator", "olga"), "credentials-finnhub")
            assert await operator.rotate() == 2
            assert (await operator.rewrap())["state"] == "done"
            assert (await client.get(f"{address}/proxy/api/v1/quote?symbol=AAPL", headers=owner)).status_code == 200
            types = (await client.get("/openapi.json")).json()["components"]["schemas"]["StoreCredentialRequest"]
            assert types["properties"]["credential_type"]["enum"] == ["alpaca", "finnhub", "polygon"]


async def test_a_type_that_there_is_not_is_refused_with_those_that_there_are(stack: Stack) -> None:
    owner = callers(stack)("user", "unknown-type")
    async with client_on(stack.settings()) as client:
        answer = await client.post("/v1/credentials", json=new_body(credential_type="finnhub"), headers=owner)
        assert problem_of(answer)[:2] == (422, "invalid-input")
        assert answer.json()["errors"] == [{"field": "credential_type", "problem": "must be one of: alpaca, polygon"}]


def test_its_file_is_no_part_of_the_service() -> None:
    service = Path(__file__).parents[2] / "service"
    assert not [file for file in service.rglob("*.py") if "finnhub" in file.read_text().lower()]
