"""`RevealedSecret`: a real string for a client library, masked where it is shown, NULs once wiped."""

import copy
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.memory.plaintext import MASK, Plaintext
from service.memory.revealed import RevealedSecret, reveal_ascii, reveal_at, wipe_revealed
from tests.support import canary

PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=600)


def revealed(text: str) -> RevealedSecret:
    return reveal_ascii(memoryview(bytearray(text, "ascii")))


@given(PRINTABLE)
def test_it_is_the_string_until_it_is_wiped_and_nuls_afterwards_for_every_holder(text: str) -> None:
    secret = revealed(text)
    kept, other = secret, [secret]
    assert secret == text
    assert secret.encode() == text.encode()
    wipe_revealed(secret)
    assert kept == "\0" * len(text)
    assert other[0].encode() == bytes(len(text))


def test_str_format_and_encode_reveal_so_that_a_header_can_be_made() -> None:
    text = canary()
    secret = revealed(text)
    assert f"Bearer {secret}" == "Bearer " + text
    assert "%s" % secret == text  # noqa: UP031 - a way that headers are made
    assert secret.encode("ascii") == text.encode()
    assert {"APCA-API-KEY-ID": secret}["APCA-API-KEY-ID"] == text


@pytest.mark.parametrize("text", ["", "a", "\0", "ab", "a" * 600])
def test_its_hash_is_that_of_its_text_so_that_it_is_found_in_a_dict(text: str) -> None:
    assert hash("\0" * len(text)) == hash("\0" * len(text))  # whoever takes the hash of NULs, takes it of its own copy
    with Plaintext.copy_of(text) as held:
        for secret in (revealed(text), reveal_at(held.address, len(held))):
            assert hash(secret) == hash(text)
            by_text: dict[str, int] = {text: 1}
            by_secret: dict[str, int] = {secret: 1}
            assert by_text[secret] == by_secret[text] == 1
            wipe_revealed(secret)
        assert hash(revealed(text)) == hash(reveal_at(held.address, len(held))) == hash(text)


def test_the_bytes_at_an_address_become_a_string_of_their_own() -> None:
    text = canary()
    with Plaintext.copy_of(text) as held:
        secret = reveal_at(held.address, len(held))
        beginning = reveal_at(held.address, 1)
        nothing = reveal_at(held.address, 0)
    assert (secret, beginning, nothing) == (text, text[0], "")
    wipe_revealed(secret)
    wipe_revealed(beginning)
    assert secret == "\0" * len(text)
    assert beginning == "\0"
    assert revealed("P") == "P"  # the interpreter's own one-character strings are as they were
    assert chr(0) == "\0"


def test_slices_of_it_are_masked_too() -> None:
    text = canary()
    secret = revealed(text)
    assert secret[2:5] == text[2:5]
    assert secret[0] == text[0]
    for shown in (repr(secret[:30]), f"{secret[:30]!r}", repr([secret[3:]])):
        assert text[3:30] not in shown
        assert MASK in shown


def test_its_repr_is_masked_also_within_containers() -> None:
    text = canary()
    secret = revealed(text)
    for shown in (repr(secret), f"{secret!r}", repr((secret, secret)), repr({"key": [secret]})):
        assert text not in shown
        assert MASK in shown


def test_wiping_touches_no_other_string_of_the_same_content() -> None:
    for text in ("", "a", "get", "__init__", sys.intern(canary())):
        secret = revealed(text)
        before = text.encode()
        wipe_revealed(secret)
        assert text.encode() == before
        assert "a" + "bc" == "abc"
        assert "get" in dir(dict)


def test_only_a_revealed_secret_is_wiped() -> None:
    plain = canary()
    before = plain.encode()
    with pytest.raises(TypeError):
        wipe_revealed(plain)  # type: ignore[arg-type]  # what the check is for
    assert plain.encode() == before


def test_it_cannot_be_pickled_or_copied() -> None:
    secret = revealed(canary())
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(secret)


def test_what_is_not_ascii_is_refused_without_being_shown() -> None:
    text = canary() + "é"
    with pytest.raises(ValueError) as refused:
        reveal_ascii(memoryview(text.encode()))
    assert text[:10] not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None
