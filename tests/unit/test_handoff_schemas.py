"""The answer that has a wrapping token shows it in JSON alone."""

import copy
import pickle
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from fastapi.exceptions import ResponseValidationError
from pydantic import SecretStr, ValidationError

from service.app import create_app
from service.memory.plaintext import Plaintext
from service.modules.handoff import HandedOff
from service.modules.handoff_ports import WrappedPair
from service.schemas.handoff_schemas import HandOffFailureRequest, HandOffRequest, HandOffResponse
from tests.support import canary
from tests.unit.test_routes import credential


@pytest.fixture
def token() -> str:
    return f"hvs.{canary('')}{canary('')}"


def response(token: str, **changes: Any) -> HandOffResponse:
    return HandOffResponse(
        **{
            "handoff_id": str(uuid4()),
            "wrapping_token": SecretStr(token),
            "expires_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
            "creation_path": "transit/decrypt/credentials-alpaca",
            "vault_addr": "https://vault.example",
            "vault_namespace": None,
            "credential_type": "alpaca",
            "account_type": None,
            "secret_version": 1,
        }
        | changes
    )


def test_json_has_the_token_and_the_times_zone(token: str) -> None:
    shown = response(token).model_dump_json()
    assert f'"wrapping_token":"{token}"' in shown
    assert '"expires_at":"2026-01-31T12:00:00' in shown


def test_nothing_else_shows_the_token(token: str) -> None:
    shown = response(token)
    for text in (repr(shown), str(shown), f"{shown}", repr(shown.model_dump()), repr(vars(shown)), str(list(shown))):
        assert token not in text
    for way in (pickle.dumps, copy.copy, copy.deepcopy, lambda it: it.model_copy()):
        with pytest.raises(TypeError) as raised:
            way(shown)
        assert token not in str(raised.value)


def test_what_does_not_fit_is_refused_without_the_token(token: str) -> None:
    with pytest.raises(ValidationError) as raised:
        response(token, secret_version="one")
    assert token not in str(raised.value) + repr(raised.value)
    assert not isinstance(raised.value, ResponseValidationError)


def test_what_the_domain_hands_over_shows_stars(token: str) -> None:
    with Plaintext.copy_of(token) as held:
        pair = WrappedPair(held, "transit/decrypt/credentials-alpaca", datetime.now(UTC))
        handed = HandedOff(uuid4(), credential(), pair)
        for text in (repr(pair), repr(handed), str(handed), f"{handed}", f"{pair.token}"):
            assert token not in text


def test_the_document_says_that_the_token_is_answered() -> None:
    schemas = create_app().openapi()["components"]["schemas"]
    field = schemas["HandOffResponse"]["properties"]["wrapping_token"]
    assert (field["type"], field.get("writeOnly", False)) == ("string", False)
    assert set(schemas["HandOffResponse"]["required"]) == set(schemas["HandOffResponse"]["properties"])


@pytest.mark.parametrize("ttl", [0, 301, -5, 1.5, "x"])
def test_a_time_out_of_bounds_is_refused(ttl: Any) -> None:
    with pytest.raises(ValidationError, match="ttl"):
        HandOffRequest(ttl=ttl)


def test_a_reason_is_one_of_those_that_there_are(token: str) -> None:
    with pytest.raises(ValidationError) as raised:
        HandOffFailureRequest.model_validate({"reason": token})
    assert token not in str(raised.value)
