"""Logs: JSON, with the request's id, and without anything a caller or a driver said."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from service.authz.policy import Identity, Role
from service.errors import CredentialNotFound
from service.observability import configure_logging, current_request_id
from tests.support import canary
from tests.unit.fake_runtime import USER, Part, client_of

IDENTITIES = {"user-token": Identity(subject="alice", roles=frozenset({Role.USER}))}
ID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    names = [None, "httpx", "httpcore", "aiohttp", "hvac", "asyncpg", "urllib3", "asyncio"]
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    stream = io.StringIO()
    configure_logging("DEBUG", stream=stream)
    yield stream
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def test_an_answer_is_one_line_with_the_routes_template(log: io.StringIO) -> None:
    part = Part()
    part.result = CredentialNotFound()
    async with client_of(part, IDENTITIES) as client:
        await client.get(f"/v1/credentials/{ID}", headers={**USER, "X-Request-Id": "r-1"})
    (line,) = [line for line in lines(log) if line["logger"] == "service.access"]
    assert isinstance(line.pop("ms"), float)
    line.pop("at")
    assert line == {
        "level": "INFO",
        "logger": "service.access",
        "message": "request",
        "method": "GET",
        "route": "/v1/credentials/{credential_id}",
        "status": 404,
        "request_id": "r-1",
    }


async def test_nothing_of_a_request_is_logged(log: io.StringIO) -> None:
    secret = canary()
    async with client_of(Part(), IDENTITIES) as client:
        await client.request(secret, "/healthz")
        await client.get(f"/v1/{secret}?{secret}={secret}", headers={"X-Request-Id": f"{secret}!", "X-A": secret})
        await client.post("/v1/credentials", content=secret, headers={"Authorization": f"Bearer {secret}"})
        await client.post("/v1/credentials", content=f'{{"{secret}": 1}}', headers=USER)
    assert [line["status"] for line in lines(log)] == [405, 404, 401, 415]
    assert secret not in log.getvalue()


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 64])
async def test_a_good_request_id_is_kept(given: str) -> None:
    async with client_of(Part()) as client:
        answer = await client.get("/healthz", headers={"X-Request-Id": given})
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [b"", b"x" * 65, b"a b", b"a;b", b"\xff", b'"a"'])
async def test_a_bad_request_id_is_replaced(given: bytes) -> None:
    async with client_of(Part()) as client:
        answer = await client.get("/healthz", headers=[(b"X-Request-Id", given)])
    (made,) = answer.headers.get_list("x-request-id")
    assert len(made) == 32
    assert made.encode() != given


async def test_outside_a_request_there_is_no_id() -> None:
    async with client_of(Part()) as client:
        await client.get("/healthz")
    assert current_request_id() is None


@pytest.mark.parametrize("logger", ["httpx", "aiohttp.access", "hvac.adapters", "asyncpg.pool", "asyncio"])
def test_chatty_libraries_are_held_at_warning(logger: str, log: io.StringIO) -> None:
    logging.getLogger(logger).info("https://vault/v1/secret")
    logging.getLogger(logger).warning("trouble")
    assert [line["message"] for line in lines(log)] == ["trouble"]


def test_an_exception_is_logged_without_its_message(log: io.StringIO) -> None:
    secret = canary()
    try:
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise KeyError(secret) from error
    except KeyError:
        logging.getLogger("somebody.else").exception("it failed")
    (line,) = lines(log)
    assert secret not in log.getvalue()
    assert line["exc_info"][0] == "builtins.KeyError"
    assert "builtins.ValueError" in line["exc_info"]


def test_uvicorns_own_access_log_is_off(log: io.StringIO) -> None:
    logging.getLogger("uvicorn.access").info('GET /v1/credentials?secret HTTP/1.1"')
    logging.getLogger("uvicorn.error").info("started")
    assert [line["message"] for line in lines(log)] == ["started"]
