"""Errors as problem documents: complete, fixed, and without anything a caller or a driver said."""

import inspect
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service import errors
from service.api.error_responses import ANSWERS, PROBLEM_TYPE, UnexpectedErrors, answer_to
from service.authz.policy import Identity, Role
from service.observability import configure_logging
from tests.support import canary
from tests.unit.fake_runtime import USER, Part, client_of

IDENTITIES = {"user-token": Identity(subject="alice", roles=frozenset({Role.USER}))}
PATH = "/v1/credentials/6f9619ff-8b86-4011-b42d-00c04fc964ff"
CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, errors.CredentialsError) and found.__module__ == errors.__name__
]


def made(error: type[errors.CredentialsError]) -> errors.CredentialsError:
    if error is errors.InvalidInput:
        return errors.InvalidInput("account_id", "must be a UUID")
    if error is errors.InvalidFields:
        return errors.InvalidFields([("account_id", "must be a UUID"), ("api_key", "is required")])
    return error()


@pytest.fixture
async def part() -> Part:
    return Part()


@pytest.fixture
async def client(part: Part) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(part, IDENTITIES) as opened:
        yield opened


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("DEBUG", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("error", CLASSES)
async def test_every_error_is_a_problem_document(
    error: type[errors.CredentialsError], part: Part, client: httpx.AsyncClient
) -> None:
    part.result = made(error)
    answer = await client.get(PATH, headers=USER)
    expected = answer_to(part.result)
    assert answer.status_code == expected.status
    assert answer.headers["content-type"] == PROBLEM_TYPE
    assert answer.headers["cache-control"] == "no-store"
    problem = answer.json()
    assert problem.pop("errors", None) is not None or not isinstance(part.result, errors.InvalidInput)
    assert problem == {
        "type": f"urn:vault-credentials:error:{expected.slug}",
        "title": expected.title,
        "status": expected.status,
        "instance": answer.headers["x-request-id"],
    }


# Of the others, field and problem are the answer.
@pytest.mark.parametrize("error", [found for found in CLASSES if not issubclass(found, errors.InvalidInput)])
async def test_an_errors_own_message_is_not_in_the_answer(
    error: type[errors.CredentialsError], part: Part, client: httpx.AsyncClient
) -> None:
    part.result = error(secret := canary())
    answer = await client.get(PATH, headers=USER)
    assert secret not in answer.text + str(answer.headers)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInput, 422),
        (errors.BodyTooLarge, 413),
        (errors.WrongContentType, 415),
        (errors.AuthenticationFailed, 401),
        (errors.PermissionDenied, 403),
        (errors.CredentialNotFound, 404),
        (errors.CredentialInactive, 409),
        (errors.WrongCredentialType, 409),
        (errors.ConcurrentUpdate, 409),
        (errors.PreconditionFailed, 412),
        (errors.PreconditionRequired, 428),
        (errors.IdempotencyMismatch, 422),
        (errors.IssuerUnavailable, 503),
        (errors.VaultSealed, 503),
        (errors.VaultStandby, 503),
        (errors.VaultThrottled, 503),
        (errors.VaultUnavailable, 503),
        (errors.VaultLoginFailed, 502),
        (errors.DatabaseUnavailable, 503),
        (errors.ProviderUnavailable, 503),
        (errors.ProviderThrottled, 503),
        (errors.CredentialsError, 500),
    ],
)
def test_the_statuses_are_the_documented_ones(error: type[errors.CredentialsError], status: int) -> None:
    assert answer_to(made(error)).status == status


def test_only_errors_that_mean_the_same_share_a_type() -> None:
    slugs: dict[str, set[tuple[int, str]]] = {}
    for answer in ANSWERS.values():
        slugs.setdefault(answer.slug, set()).add((answer.status, answer.title))
    assert all(len(meanings) == 1 for meanings in slugs.values())


@pytest.mark.parametrize(
    ("known", "expected"), [(7.2, "8"), (0.0, "0"), (-3.0, "0"), (None, "5"), (float("inf"), None)]
)
async def test_retry_after_is_whole_seconds(
    known: float | None, expected: str | None, part: Part, client: httpx.AsyncClient
) -> None:
    part.result = errors.VaultUnavailable(retry_after=known)
    answer = await client.get(PATH, headers=USER)
    assert answer.headers.get("retry-after") == expected


async def test_an_unexpected_exceptions_text_is_neither_answered_nor_logged(
    part: Part, client: httpx.AsyncClient, log: io.StringIO
) -> None:
    secret = canary()
    part.result = KeyError(secret)
    part.result.__cause__ = ValueError(secret)
    answer = await client.get(PATH, headers=USER)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:vault-credentials:error:internal")
    assert secret not in answer.text
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (line,) = [line for line in lines if line["message"] == "unexpected error"]
    assert "builtins.KeyError" in line["exception"]
    assert "builtins.ValueError" in line["exception"]
    assert any("fake_runtime.py" in place for place in line["exception"])
    assert secret not in log.getvalue()


async def test_half_an_answer_breaks_off_without_the_exceptions_text() -> None:
    secret = canary()

    async def broken(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError(secret)

    transport = httpx.ASGITransport(UnexpectedErrors(broken))
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        with pytest.raises(RuntimeError) as raised:
            await client.get("/")
    assert secret not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


async def test_an_unknown_address_is_a_problem_that_does_not_repeat_it(client: httpx.AsyncClient) -> None:
    secret = canary()
    answer = await client.get(f"/v1/{secret}", headers=USER)
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM_TYPE)
    assert secret not in answer.text


async def test_a_wrong_method_is_a_problem_that_names_the_right_ones(client: httpx.AsyncClient) -> None:
    answer = await client.put("/healthz")
    assert (answer.status_code, answer.headers["content-type"]) == (405, PROBLEM_TYPE)
    assert answer.headers["allow"] == "GET, HEAD"


async def test_a_slash_at_the_end_is_not_redirected(client: httpx.AsyncClient) -> None:
    answer = await client.get("/healthz/", headers={"Host": "evil.test"})
    assert answer.status_code == 404
