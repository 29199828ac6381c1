"""The derivation context: a fixed length, and no two different secrets with the same bytes (invariants 3 and 4)."""

import hashlib
from typing import Any, TypedDict
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.modules.derivation_context import derivation_context

LENGTH = 144


class Fields(TypedDict):
    """The arguments of `derivation_context`."""

    binding: bytes
    user_id: str
    account_id: UUID
    credential_id: UUID
    secret_version: int
    credential_type: str


# Small alphabets, so that hypothesis finds inputs whose concatenations would be alike.
NAMES = st.one_of(st.text("ab|\n\x00", max_size=4), st.text(st.characters(codec="utf-8"), max_size=40))
UUIDS = st.one_of(st.uuids(), st.integers(0, 3).map(lambda number: UUID(int=number)))
VERSIONS = st.one_of(st.integers(1, 300), st.integers(1, 2**63 - 1))
FIELDS = st.fixed_dictionaries(
    {
        "binding": st.one_of(st.binary(min_size=32, max_size=32), st.just(bytes(32))),
        "user_id": NAMES,
        "account_id": UUIDS,
        "credential_id": UUIDS,
        "secret_version": VERSIONS,
        "credential_type": NAMES,
    }
)


@given(FIELDS, FIELDS)
def test_two_different_secrets_never_have_the_same_bytes(one: Fields, other: Fields) -> None:
    assume(one != other)
    assert derivation_context(**one) != derivation_context(**other)


@given(FIELDS, FIELDS, st.data())
def test_each_field_alone_changes_the_bytes(one: Fields, other: Fields, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(one)))
    changed: Any = {**one, name: dict(other)[name]}
    assume(changed != one)
    assert derivation_context(**changed) != derivation_context(**one)


@given(FIELDS)
def test_moving_the_border_between_two_fields_changes_the_bytes(one: Fields) -> None:
    user, kind = one["user_id"], one["credential_type"]
    assume(user)
    moved: Any = {**one, "user_id": user[:-1], "credential_type": user[-1] + kind}
    assert derivation_context(**moved) != derivation_context(**one)
    swapped: Any = {**one, "account_id": one["credential_id"], "credential_id": one["account_id"]}
    assert (derivation_context(**swapped) == derivation_context(**one)) is (one["account_id"] == one["credential_id"])


@given(FIELDS)
def test_the_length_is_fixed_and_the_same_secret_has_the_same_bytes(one: Fields) -> None:
    context = derivation_context(**one)
    assert len(context) == LENGTH
    assert context == derivation_context(**one)


def test_the_format_is_as_it_was_when_the_first_ciphertext_was_made() -> None:
    """Changing these bytes makes every stored credential undecryptable."""
    account, credential = UUID(int=1), UUID(int=2)
    context = derivation_context(
        binding=b"b" * 32,
        user_id="alice",
        account_id=account,
        credential_id=credential,
        secret_version=7,
        credential_type="alpaca",
    )
    assert context == b"".join(
        (
            b"vcred\x00\x01\x00",
            b"b" * 32,
            hashlib.sha256(b"alice").digest(),
            account.bytes,
            credential.bytes,
            b"\x00\x00\x00\x00\x00\x00\x00\x07",
            hashlib.sha256(b"alpaca").digest(),
        )
    )


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_binding_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        derivation_context(
            binding=bytes(length),
            user_id="alice",
            account_id=UUID(int=1),
            credential_id=UUID(int=2),
            secret_version=1,
            credential_type="alpaca",
        )
