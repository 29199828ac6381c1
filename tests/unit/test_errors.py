"""The errors: fixed text, one hierarchy, and nothing kept of what a caller sent."""

import traceback
from collections.abc import Callable, Iterator

import pytest

from service import errors
from service.errors import (
    CiphertextRejected,
    CredentialDenied,
    CredentialsError,
    InvalidFields,
    InvalidInput,
    RateLimited,
    TemporarilyUnavailable,
)
from service.memory.plaintext import Plaintext
from service.modules.input_checks import check_user_id, uuid_from
from service.modules.secret_pair import check_key, split_pair
from service.vault.transit import key_version
from tests.support import canary


def subclasses(kind: type[CredentialsError]) -> Iterator[type[CredentialsError]]:
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from subclasses(below)


ALL: list[type[CredentialsError]] = sorted(
    {CredentialsError, *subclasses(CredentialsError)}, key=lambda kind: kind.__name__
)
KEPT = {"field", "problem", "problems", "retry_after", "count", "credential_ids", "job_id", "status", "name"}
"""What errors may keep beside their text: fixed words, seconds, counts and ids."""


def make(kind: type[CredentialsError]) -> CredentialsError:
    if issubclass(kind, InvalidFields):
        return kind([("api_key", "must not be empty")])
    if issubclass(kind, InvalidInput):
        return kind("api_key", "must not be empty")
    return kind()


def test_every_error_of_the_module_is_in_the_one_hierarchy() -> None:
    defined = {thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)}
    assert defined == set(ALL)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_keeps_nothing_but_fixed_text(kind: type[CredentialsError]) -> None:
    error = make(kind)
    assert set(vars(error)) <= KEPT
    assert error.args == (str(error),)
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize(
    "kind", [kind for kind in ALL if not issubclass(kind, InvalidInput)], ids=lambda kind: kind.__name__
)
def test_an_error_raised_without_a_message_says_its_docstrings_first_line(kind: type[CredentialsError]) -> None:
    assert str(kind()) == (kind.__doc__ or "").splitlines()[0]
    assert len(str(kind())) > 10


def test_a_denial_is_the_value_error_that_the_seeds_interface_promises() -> None:
    for kind in ALL:
        is_callers_fault = issubclass(kind, CredentialDenied | InvalidInput)
        assert issubclass(kind, ValueError) == is_callers_fault


def test_what_is_temporary_says_when_to_try_again_and_the_rest_does_not() -> None:
    assert TemporarilyUnavailable(retry_after=2).retry_after == 2
    for kind in ALL:
        assert hasattr(make(kind), "retry_after") == issubclass(kind, TemporarilyUnavailable | RateLimited)


def _check_key(value: str) -> None:
    with Plaintext.copy_of(value) as key:
        check_key("api_key", key)


def _split(value: str) -> None:
    with Plaintext.copy_of(value) as pair, split_pair(pair):
        pass


@pytest.mark.parametrize(
    ("refuse", "spoil"),
    [
        (lambda value: uuid_from("account_id", value), "{}"),
        (check_user_id, "{}\0"),
        (check_user_id, "{}\ud800"),
        (_check_key, "{}é"),
        (_check_key, " {}"),
        (_check_key, "{}" * 20),
        (_split, "{}"),
        (key_version, "vault:v1:{}="),
        (key_version, "{}"),
    ],
)
def test_a_refusal_holds_nothing_of_the_value_it_refuses(refuse: Callable[[str], object], spoil: str) -> None:
    secret = canary() + "-"  # no base64 character, so that nothing takes it for a ciphertext
    value = spoil.replace("{}", secret)
    with pytest.raises((InvalidInput, CiphertextRejected)) as refused:
        refuse(value)
    error = refused.value
    shown = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.args)
    assert secret not in shown
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
