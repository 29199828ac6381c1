"""What holds a secret shows stars however it is shown, and can be neither pickled nor copied nor made into JSON."""

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import pydantic
import pytest
from rich.pretty import pretty_repr

from service.api.json_body import Members
from service.api.secret_fields import StoreFields, UpdateFields, ValidateFields
from service.memory import secret_pages
from service.memory.plaintext import Plaintext
from service.memory.secret_pages import SecretBuffer
from service.modules.credential_service import store_credential, validate_alpaca_credentials
from service.modules.credential_writer import NewCredential
from service.modules.idempotency import RequestDigest
from service.modules.open_batches import Opened
from service.modules.records import Credential, TransitReference
from service.modules.secret_pair import join_pair, reveal_pair, wipe_pair
from service.schemas.credential_schemas import (
    StoreCredentialRequest,
    UpdateCredentialRequest,
    ValidateCredentialRequest,
)
from tests.evidence import found
from tests.shown import shown, shown_by_reporters
from tests.support import canary

API, SECRET = canary("AK"), canary("SK")
KEYS = {"api_key": API, "secret_key": SECRET}
FIELDS = {"account_id": str(uuid4()), "credential_type": "alpaca", **KEYS}


def credential() -> Credential:
    now, some_id = datetime.now(UTC), uuid4()
    reference = TransitReference(
        transit_mount="transit",
        transit_key="credentials-alpaca",
        transit_key_version=1,
        binding=bytes(32),
        kv_mount="credentials",
        kv_path=f"{some_id}/{some_id}",
        kv_version=1,
        secret_version=1,
    )
    return Credential(
        id=some_id,
        user_id="alice",
        account_id=some_id,
        credential_type="alpaca",
        account_type=None,
        is_active=True,
        reference=reference,
        previous=None,
        row_version=1,
        validation_state="unvalidated",
        last_validated_at=None,
        last_used_at=None,
        created_at=now,
        updated_at=now,
    )


def plaintexts() -> tuple[Plaintext, Plaintext]:
    return Plaintext.copy_of(API), Plaintext.copy_of(SECRET)


def filled_buffer() -> SecretBuffer:
    buffer = SecretBuffer(len(API))
    buffer.view[:] = API.encode()
    return buffer


HOLDERS: dict[str, Callable[[], Any]] = {
    "a plaintext": lambda: plaintexts()[0],
    "a view of one": plaintexts()[0].reveal,
    "a pair": lambda: join_pair(*plaintexts()),
    "a buffer": filled_buffer,
    "a buffer's view": lambda: filled_buffer().view,
    "what is to be stored": lambda: NewCredential(uuid4(), "alpaca", *plaintexts()),
    "what was opened": lambda: Opened(credential(), join_pair(*plaintexts())),
    "the revealed keys": lambda: reveal_pair(join_pair(*plaintexts())),
    "a slice of a revealed key": lambda: reveal_pair(join_pair(*plaintexts()))[0][:],
    "a body's members": lambda: Members(dict(FIELDS)),
    "a request to store": lambda: StoreCredentialRequest.model_validate(FIELDS),
    "a request to update": lambda: UpdateCredentialRequest.model_validate(KEYS),
    "a request to validate": lambda: ValidateCredentialRequest.model_validate(KEYS),
    "a stored route's fields": lambda: StoreFields.of(StoreCredentialRequest.model_validate(FIELDS)),
    "an updated route's fields": lambda: UpdateFields.of(UpdateCredentialRequest.model_validate(KEYS)),
    "a validated route's fields": lambda: ValidateFields.of(ValidateCredentialRequest.model_validate(KEYS)),
    "a body's digest": lambda: RequestDigest.of(*plaintexts()),
}


def every_holder_but(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name in HOLDERS if name not in names])


@pytest.fixture
def held(name: str) -> Iterator[Any]:
    made = HOLDERS[name]()
    yield made
    if name == "the revealed keys":
        wipe_pair(made)


@every_holder_but()
def test_its_repr_str_format_and_vars_show_no_secret_nor_do_those_of_what_it_holds(name: str, held: Any) -> None:
    if isinstance(held, pydantic.BaseModel):  # pydantic's SecretStr masks all but its own `vars`
        texts = [repr(held), str(held), f"{held}", repr(vars(held)), repr([held]), held.model_dump_json()]
        texts += [repr(held.model_dump()), str(held.model_dump(mode="json"))]
    elif isinstance(held, Members):  # a plain dict inside, which its one slot has
        texts = [repr(held), str(held), f"{held}", repr([held])]
        assert not hasattr(held, "__dict__")
    else:
        texts = list(shown(held))
    assert texts
    assert found(KEYS.values(), {"shown": "\n".join(texts)}) == []


@every_holder_but()
def test_containers_of_it_show_no_secret_in_an_f_string_nor_by_rich(name: str, held: Any) -> None:
    box = {"list": [held], "tuple": (held,), "dict": {"key": held}, "error": ValueError(held)}
    texts = [f"{box}", f"{box!r:>10}", "%s %r" % (box, box), "{[list]}".format(box), repr(ValueError(held))]  # noqa: UP031, UP032 - ways that log lines are made
    texts += [pretty_repr(box), pretty_repr(box, max_string=20), pretty_repr(held)]
    assert found(KEYS.values(), {"shown": "\n".join(texts)}) == []


@every_holder_but("a body's digest")  # no secret, but a SHA-256 of one
def test_it_cannot_be_pickled_or_copied(name: str, held: Any) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises((TypeError, pickle.PicklingError)):
            pickle.dumps(held, protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(held)
    if type(held).__module__.startswith("service.memory") or isinstance(held, pydantic.BaseModel):
        with pytest.raises(TypeError):
            copy.copy(held)


@every_holder_but("the revealed keys", "a slice of a revealed key")  # JSON writes any string as it is
def test_json_of_it_or_of_its_fields_is_an_error_or_stars(name: str, held: Any) -> None:
    attempts: list[Callable[[], str]] = [
        lambda: json.dumps(held),
        lambda: json.dumps(vars(held)),
        lambda: json.dumps(held, default=str),
        lambda: json.dumps(vars(held), default=repr),
        lambda: json.dumps(dataclasses.asdict(held)),
        lambda: pydantic.TypeAdapter(Any).dump_json(held).decode(),
        lambda: pydantic.TypeAdapter(type(held)).dump_json(held).decode(),
        lambda: str(held.model_dump_json()),
    ]
    made = []
    for attempt in attempts:
        try:
            made.append(attempt())
        except Exception:  # noqa: BLE001, S112 - whatever refuses shows nothing
            continue
    assert found(KEYS.values(), {"json": "\n".join(made)}) == []


async def test_where_too_many_secrets_are_held_the_error_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_pages, "MAX_SLOT_BYTES", 0)
    held: list[Plaintext] = []
    with pytest.raises(MemoryError):
        held.extend(Plaintext.allocate(len(API)) for _ in range(100_000))
    for attempt in (
        validate_alpaca_credentials(API, SECRET),
        store_credential(cast(Any, None), uuid4(), "alice", "alpaca", API, SECRET),
    ):
        with pytest.raises(MemoryError) as refused:
            await attempt
        assert found(KEYS.values(), shown_by_reporters(refused.value)) == []
    with pytest.raises(MemoryError) as unmade:
        ValidateFields.of(ValidateCredentialRequest.model_validate(KEYS))
    assert found(KEYS.values(), shown_by_reporters(unmade.value)) == []


def test_a_secret_in_the_wrong_place_of_a_body_is_not_in_pydantics_own_error() -> None:
    for body in ({**FIELDS, SECRET: "x"}, {**FIELDS, "api_key": [SECRET]}, {**KEYS, "account_id": 7}):
        with pytest.raises(pydantic.ValidationError) as refused:
            StoreCredentialRequest.model_validate(body)
        texts = {"str": str(refused.value), "repr": repr(refused.value)}
        assert found([API], texts) == []
        assert SECRET in body or found([SECRET], texts) == []  # an unknown field's name is in it, and it is not shown
