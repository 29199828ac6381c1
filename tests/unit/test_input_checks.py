"""Ids and names from callers: one spelling, nothing that breaks a batch, and an error that names the field alone."""

import unicodedata
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.modules.input_checks import MAX_USER_ID_BYTES, check_user_id, uuid_from

HIDDEN = "must not contain control characters, or others that do not show"
ENDS = "must not begin or end with white space"
ID = UUID("0d3f4c4e-3c1f-4f0a-9d0e-0f1e2d3c4b5a")


@given(st.uuids())
def test_a_uuid_is_taken_as_text_of_either_case_and_as_itself(value: UUID) -> None:
    assert uuid_from("id", str(value)) == value
    assert uuid_from("id", str(value).upper()) == value
    assert uuid_from("id", value) == value


def test_a_uuid_subclass_becomes_a_plain_uuid() -> None:
    class Driver(UUID):
        """As asyncpg's own UUID class is."""

    taken = uuid_from("id", Driver(str(ID)))
    assert type(taken) is UUID
    assert taken == ID


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        ID.hex,
        f"{{{ID}}}",
        f"urn:uuid:{ID}",
        f" {ID}",
        f"{ID}\n",
        f"{ID}\0",
        str(ID)[:-1],
        f"{ID}a",
        str(ID).replace("-", "", 1),
        "0d3f4c4e3-c1f-4f0a-9d0e-0f1e2d3c4b5a",
        "\N{FULLWIDTH DIGIT ZERO}" + str(ID)[1:],
        "' OR 1=1 --",
        None,
        7,
        b"0d3f4c4e-3c1f-4f0a-9d0e-0f1e2d3c4b5a",
        ["0d3f4c4e"],
    ],
)
def test_another_spelling_or_anything_else_is_refused_without_being_kept(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^credential_id: must be a UUID$") as refused:
        uuid_from("credential_id", value)  # type: ignore[arg-type]  # what callers may send all the same
    assert vars(refused.value) == {"field": "credential_id", "problem": "must be a UUID"}


@given(st.text(max_size=300))
def test_no_text_is_taken_for_a_uuid_unless_it_is_one(value: str) -> None:
    try:
        taken = uuid_from("id", value)
    except InvalidInput:
        return
    assert str(taken) == value.lower()


@pytest.mark.parametrize(
    "value",
    ["alice", "auth0|5f7c8ec7c33c6c004bbafe82", "Zoë Ångström", "李", "a" * 512, "a b", "\u1eaf", "a@b.example"],
)
def test_a_user_id_is_any_text_an_issuer_may_have(value: str) -> None:
    assert check_user_id(value) == value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "must not be empty"),
        (None, "must not be empty"),
        (7, "must not be empty"),
        ("a\0b", HIDDEN),
        ("a\nb", HIDDEN),
        ("a\x7fb", HIDDEN),
        ("a\x85b", HIDDEN),
        ("a\u200bb", HIDDEN),  # zero width space
        ("a\u202eb", HIDDEN),  # right-to-left override
        ("a\ufeff", HIDDEN),
        ("a\u2028b", HIDDEN),
        ("a\u2029b", HIDDEN),
        ("a\ue000b", HIDDEN),  # private use
        (" a", ENDS),
        ("a ", ENDS),
        ("a\u00a0", ENDS),
        ("\u3000a", ENDS),
        ("Zoe\u0308", "must be NFC-normalised Unicode"),
        ("\u212bngstr\u00f6m", "must be NFC-normalised Unicode"),  # the ångström sign
        ("a\ud800", "must be valid Unicode"),
        ("a" * (MAX_USER_ID_BYTES + 1), "must have at most 512 bytes"),
        ("é" * (MAX_USER_ID_BYTES // 2 + 1), "must have at most 512 bytes"),
    ],
)
def test_what_would_break_a_statement_or_a_log_is_no_user_id(value: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_user_id(value)
    assert vars(refused.value) == {"field": "user_id", "problem": problem}


@given(st.text())
def test_whatever_is_accepted_as_a_user_id_postgres_can_hold(value: str) -> None:
    try:
        check_user_id(value)
    except InvalidInput:
        return
    assert "\0" not in value
    assert 0 < len(value.encode("utf-8")) <= MAX_USER_ID_BYTES
    assert value == unicodedata.normalize("NFC", value.strip())


def test_two_random_ids_are_taken_as_two() -> None:
    assert uuid_from("id", str(uuid4())) != uuid_from("id", str(uuid4()))
