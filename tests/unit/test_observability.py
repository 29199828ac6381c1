"""Logs: JSON, with the request's id, and without anything a caller or a driver said."""

import copy
import dataclasses
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from service.authz.policy import Identity, Role
from service.correlation import Correlation, TraceContext
from service.errors import CredentialNotFound
from service.memory.plaintext import MASK, Plaintext
from service.memory.revealed import reveal_ascii
from service.observability import _Answered, configure_logging, current_request_id
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
        answer = await client.get(f"/v1/credentials/{ID}", headers={**USER, "X-Request-Id": "r-1"})
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
        "request_id": answer.headers["x-request-id"],
        "client_request_id": "r-1",
    }


@pytest.mark.parametrize("given", [None, "r-1"])
def test_the_line_of_an_answer_is_what_the_usual_way_would_write(given: str | None, log: io.StringIO) -> None:
    route = '/v1/"{odd}\\é\n'
    trace = TraceContext("a" * 32, "b" * 16) if given else None
    request = Correlation("f" * 32, trace, ["c", "d"] if given else [])
    record = _Answered("GET", route, 200, 1.5, request, given)
    logging.getLogger().handle(record)
    logging.getLogger().handle(logging.makeLogRecord(vars(record)))
    ours, usual = lines(log)
    assert ours == usual
    assert ours["route"] == route


async def test_an_answer_is_an_ordinary_record_to_other_handlers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        async with client_of(Part()) as client:
            answer = await client.get("/healthz", headers={"X-Request-Id": "r-1"})
    (found,) = [each for each in caplog.records if each.name == "service.access"]
    record = copy.copy(found)  # as a queue handler does
    assert (record.getMessage(), record.levelname) == ("request", "INFO")
    fields = vars(record)
    assert (fields["method"], fields["route"], fields["status"]) == ("GET", "/healthz", 200)
    assert (fields["request_id"], fields["client_request_id"]) == (answer.headers["x-request-id"], "r-1")
    assert isinstance(fields["ms"], float)


async def test_answers_are_not_logged_where_the_level_is_above_info(log: io.StringIO) -> None:
    logging.getLogger().setLevel(logging.WARNING)
    async with client_of(Part()) as client:
        await client.get("/healthz")
    assert log.getvalue() == ""


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
async def test_a_good_request_id_is_noted_beside_ours(given: str, log: io.StringIO) -> None:
    async with client_of(Part()) as client:
        answer = await client.get("/healthz", headers={"X-Request-Id": given})
    (made,) = answer.headers.get_list("x-request-id")
    (line,) = lines(log)
    assert (line["request_id"], line["client_request_id"]) == (made, given)
    assert len(made) == 32


async def test_two_requests_never_have_one_id() -> None:
    async with client_of(Part()) as client:
        answers = [await client.get("/healthz", headers={"X-Request-Id": "f" * 32}) for _ in range(2)]
    assert len({answer.headers["x-request-id"] for answer in answers} | {"f" * 32}) == 3


@pytest.mark.parametrize("given", [b"", b"x" * 65, b"a b", b"a;b", b"\xff", b'"a"'])
async def test_a_bad_request_id_is_dropped(given: bytes, log: io.StringIO) -> None:
    async with client_of(Part()) as client:
        answer = await client.get("/healthz", headers=[(b"X-Request-Id", given)])
    (made,) = answer.headers.get_list("x-request-id")
    assert len(made) == 32
    assert made.encode() != given
    assert "client_request_id" not in log.getvalue()


async def test_outside_a_request_there_is_no_id() -> None:
    async with client_of(Part()) as client:
        await client.get("/healthz")
    assert current_request_id() is None


@dataclasses.dataclass
class Holder:
    key: object


def test_a_secret_is_stars_in_a_log_line_wherever_it_is(log: io.StringIO) -> None:
    text = canary()
    logger = logging.getLogger("somebody.else")
    for secret in (reveal_ascii(memoryview(text.encode())), Plaintext.copy_of(text)):
        extra = {
            "plain": secret,
            "dict": {"a": [{"b": secret}], secret if isinstance(secret, str) else "key": 1},
            "tuple": (secret, (secret,)),
            "set": {secret} if isinstance(secret, str) else frozenset(),
            "held": Holder(secret),
            "error": ValueError(text),
        }
        logger.warning("it is %s", secret, extra=extra)
        logger.warning("it is %(key)s", {"key": secret})
        logger.warning(secret)
        logger.warning({"key": secret})
    assert text not in log.getvalue()
    for first, *others in (lines(log)[:4], lines(log)[4:]):
        assert (first["message"], first["plain"], first["tuple"]) == (f"it is {MASK}", MASK, [MASK, [MASK]])
        assert [line["message"] for line in others] == [f"it is {MASK}", MASK, ""]
        assert others[-1]["key"] == MASK


def test_masking_leaves_other_fields_and_the_record_as_they_are(log: io.StringIO) -> None:
    record = logging.makeLogRecord({"msg": "%s of %d", "args": ("one", 2), "levelno": 20, "levelname": "INFO"})
    record.kept = [1, None, "x"]
    before = dict(vars(record))
    logging.getLogger().handle(record)
    assert (lines(log)[0]["message"], lines(log)[0]["kept"]) == ("one of 2", [1, None, "x"])
    assert {name: vars(record)[name] for name in before} == before


def test_uvicorns_coloured_messages_are_left_out(log: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("on %s", "port", extra={"color_message": "\x1b[1mon %s"})
    assert [line["message"] for line in lines(log)] == ["on port"]
    assert "color_message" not in log.getvalue()


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
