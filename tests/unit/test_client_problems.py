"""The service's problem documents become the exceptions that the service raised, and nothing else of them is taken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.api.error_responses import ANSWERS, TYPE_PREFIX
from service.client import problems
from service.client.problems import TABLE, error_of
from service.errors import CredentialsError, InvalidFields, InvalidInput, ServiceError, ServiceUnavailable
from tests.support import canary

INTERNAL = ANSWERS[errors.CredentialsError].slug
CHANGED = {"credential-not-found": errors.CredentialNotFound, "concurrent-update": errors.ConcurrentUpdate}
"""Answered for several classes: the one that the client raises."""


def document(slug: str, **members: object) -> bytes:
    return json.dumps({"type": TYPE_PREFIX + slug, "title": "…", "status": 400, **members}).encode()


def test_the_clients_table_and_the_services_have_the_same_names() -> None:
    assert TYPE_PREFIX == problems.TYPE_PREFIX
    assert set(TABLE) == {answer.slug for answer in ANSWERS.values()} - {INTERNAL}


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_an_error_of_the_services_is_raised_as_what_it_was(kind: type[Exception]) -> None:
    slug, status = ANSWERS[kind].slug, ANSWERS[kind].status
    told = document(slug, errors=[{"field": "api_key", "problem": "must not be empty"}])
    error = error_of(status, told, None)
    if slug == INTERNAL:
        assert isinstance(error, ServiceError)
        assert (error.status, error.name) == (status, slug)
    else:
        assert type(error) is CHANGED.get(slug, kind)
    assert error.__cause__ is error.__context__ is None


@pytest.mark.parametrize("kind", [*{*TABLE.values()}], ids=lambda kind: kind.__name__)
def test_what_the_client_raises_the_service_answers_with_the_same_name(kind: type[CredentialsError]) -> None:
    from service.api.error_responses import answer_to

    error = InvalidInput("a", "b") if kind is InvalidInput else kind()
    assert TABLE[answer_to(error).slug] is kind


def test_retry_after_and_the_requests_id_are_kept_with_every_error() -> None:
    error = error_of(503, document("vault-sealed", instance="5d3e0b1c"), 30.0)
    assert isinstance(error, errors.VaultSealed)
    assert error.retry_after == 30.0
    assert error.__notes__ == ["request id: 5d3e0b1c"]
    unusual = error_of(409, document("job-failed"), 3.0)
    assert vars(unusual)["retry_after"] == 3.0


def test_several_refused_fields_are_all_named() -> None:
    told = [{"field": "api_key", "problem": "must not be empty"}, {"field": "account_id", "problem": "must be a UUID"}]
    error = error_of(422, document("invalid-input", errors=told), None)
    assert isinstance(error, InvalidFields)
    assert error.problems == (("api_key", "must not be empty"), ("account_id", "must be a UUID"))
    one = error_of(422, document("invalid-input", errors=told[:1]), None)
    assert type(one) is InvalidInput
    assert (one.field, one.problem) == ("api_key", "must not be empty")


def test_versions_still_needed_and_a_failed_job_bring_their_own_members() -> None:
    wanted = "0b7a6c0e-41c5-4f0b-9d36-0f1d2c3b4a59"
    needed = error_of(409, document("versions-still-needed", count=7, credentials=[wanted, "none", 3]), None)
    assert isinstance(needed, errors.VersionsStillNeeded)
    assert (needed.count, [str(each) for each in needed.credential_ids]) == (7, [wanted])
    failed = error_of(409, document("job-failed", job=wanted), None)
    assert isinstance(failed, errors.JobFailed)
    assert str(failed.job_id) == wanted


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_is_no_problem_of_this_services_says_that_it_is_not_there(status: int) -> None:
    assert isinstance(error_of(status, b"<html>no upstream</html>", None), ServiceUnavailable)


def test_an_unknown_problem_is_an_error_with_its_status_and_name_alone() -> None:
    secret = canary()
    error = error_of(418, document("short-and-stout", title=secret, detail=secret), None)
    assert isinstance(error, ServiceError)
    assert (error.status, error.name) == (418, "short-and-stout")
    assert secret not in repr(error) + str(error) + repr(vars(error))


@pytest.mark.parametrize(
    "told",
    [
        {"type": TYPE_PREFIX + "\x1b[2J"},
        {"type": TYPE_PREFIX + "A" * 1000},
        {"type": "https://elsewhere.test/suspended"},
        {"type": ["suspended"]},
        {"instance": "\x1b[2J"},
        {"instance": 7},
    ],
    ids=str,
)
def test_what_a_hostile_answer_says_gets_into_no_message(told: dict[str, object]) -> None:
    error = error_of(400, json.dumps(told).encode(), None)
    assert isinstance(error, ServiceError)
    assert error.name == ""
    assert not hasattr(error, "__notes__")


def test_a_problems_text_does_nothing_to_a_terminal_and_isnt_long() -> None:
    told = [{"field": "\x1b]0;x\x07", "problem": "y" * 10_000}] * 1_000
    error = error_of(422, document("invalid-input", errors=told), None)
    assert isinstance(error, InvalidFields)
    assert len(error.problems) == 100
    assert error.problems[0][0] == "?]0;x?"
    assert len(error.problems[0][1]) == 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from([*TABLE, INTERNAL, ""]),
    st.dictionaries(st.sampled_from(["errors", "count", "credentials", "job", "instance", "title"]), JSON),
    st.integers(400, 599),
)
def test_whatever_a_problem_holds_it_becomes_one_of_our_errors(
    slug: str, members: dict[str, object], status: int
) -> None:
    error = error_of(status, document(slug, **members), 1.0)
    assert isinstance(error, CredentialsError)
    assert str(error).isprintable()


@given(st.binary(max_size=200))
def test_whatever_is_answered_becomes_one_of_our_errors(body: bytes) -> None:
    assert isinstance(error_of(500, body, None), ServiceError)
