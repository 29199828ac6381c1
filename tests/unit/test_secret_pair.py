"""Two keys as one plaintext: what is acceptable as a key, and that joining and splitting loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import CiphertextRejected, InvalidInput
from service.memory.plaintext import Plaintext
from service.memory.revealed import RevealedSecret, reveal_at
from service.modules import secret_pair
from service.modules.secret_pair import (
    MAX_KEY_LENGTH,
    check_key,
    copy_view,
    join_pair,
    reveal_pair,
    split_pair,
    wipe_pair,
)
from tests.support import canary

PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
KEYS = st.text(PRINTABLE, min_size=1, max_size=MAX_KEY_LENGTH).filter(lambda key: key == key.strip(" "))


@given(KEYS, st.one_of(KEYS, st.just("")))
def test_every_acceptable_pair_is_split_into_what_was_joined(api_key: str, secret_key: str) -> None:
    with Plaintext.copy_of(api_key) as api, Plaintext.copy_of(secret_key) as secret:
        check_key("api_key", api)
        check_key("secret_key", secret, may_be_empty=True)
        with join_pair(api, secret) as pair, split_pair(pair) as (first, second):
            assert (bytes(first).decode(), bytes(second).decode()) == (api_key, secret_key)


@given(st.text(st.characters(codec="utf-8"), max_size=600), st.booleans())
def test_whatever_is_accepted_is_printable_ascii_of_a_sane_length(key: str, may_be_empty: bool) -> None:
    with Plaintext.copy_of(key) as held:
        try:
            check_key("api_key", held, may_be_empty=may_be_empty)
        except InvalidInput:
            return
    assert all(" " <= character <= "~" for character in key)
    assert len(key) <= MAX_KEY_LENGTH
    assert key or may_be_empty


@pytest.mark.parametrize(
    "key", ["", "a\nb", "a\0", "\x1b[0m", "\x7f", "schlüssel", "\ud800", " a", "a ", "a" * (MAX_KEY_LENGTH + 1), "a\tb"]
)
def test_what_no_provider_has_as_a_key_is_refused_by_field_and_never_shown(key: str) -> None:
    with Plaintext.copy_of(key) as held, pytest.raises(InvalidInput) as refused:
        check_key("secret_key", held)
    assert refused.value.field == "secret_key"
    assert len(key) < 3 or key.strip() not in str(refused.value)
    assert set(vars(refused.value)) == {"field", "problem"}


def test_the_longest_key_is_accepted() -> None:
    with Plaintext.copy_of("a" * MAX_KEY_LENGTH) as held:
        check_key("api_key", held)


NO_PAIRS = [b"", b"no separator", b"\nonly a secret", b"\n", b"api\nsecr\xc3\xa9t", b"\xff\n", b"a\nb\nc", b"a\0\nb"]


@pytest.mark.parametrize("content", NO_PAIRS)
def test_what_is_no_pair_is_rejected(content: bytes) -> None:
    with Plaintext(bytearray(content)) as pair, pytest.raises(CiphertextRejected), split_pair(pair):
        pytest.fail("a pair was made of it")


@given(KEYS, st.one_of(KEYS, st.just("")))
def test_every_acceptable_pair_is_revealed_as_it_was_joined_and_wiped_for_every_holder(api: str, secret: str) -> None:
    with Plaintext.copy_of(api) as api_key, Plaintext.copy_of(secret) as secret_key:
        pair = join_pair(api_key, secret_key)
    keys = kept = reveal_pair(pair)
    pair.wipe()
    assert keys == (api, secret)
    wipe_pair(keys)
    wipe_pair(keys)
    assert kept == ("\0" * len(api), "\0" * len(secret))


@pytest.mark.parametrize("content", NO_PAIRS)
def test_what_is_no_pair_is_not_revealed(content: bytes) -> None:
    with Plaintext(bytearray(content)) as pair, pytest.raises(CiphertextRejected) as refused:
        reveal_pair(pair)
    assert refused.value.__cause__ is None
    assert content.decode("latin-1") not in str(refused.value) or not content.strip()


def test_a_pair_of_which_half_was_revealed_when_it_failed_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[RevealedSecret] = []

    def reveal_once(address: int, size: int) -> RevealedSecret:
        if made:
            raise MemoryError
        made.append(reveal_at(address, size))
        return made[0]

    monkeypatch.setattr(secret_pair, "reveal_at", reveal_once)
    with Plaintext.copy_of("api\nsecret") as pair, pytest.raises(MemoryError):
        reveal_pair(pair)
    assert made == ["\0\0\0"]


def test_a_wiped_pair_reveals_nothing() -> None:
    pair = Plaintext.copy_of("api\nsecret")
    pair.wipe()
    with pytest.raises(CiphertextRejected):
        reveal_pair(pair)


def test_the_two_keys_are_views_of_the_pairs_own_memory_so_wiping_the_pair_wipes_them() -> None:
    with (
        Plaintext.copy_of(canary("AK")) as api,
        Plaintext.copy_of(canary("SK")) as secret,
        join_pair(api, secret) as pair,
        split_pair(pair) as (first, second),
    ):
        pair.wipe()
        assert not any(first)
        assert not any(second)


def test_the_views_end_with_the_block() -> None:
    with Plaintext.copy_of("api\nsecret") as pair:
        with split_pair(pair) as (first, second):
            pass
        for view in (first, second):
            with pytest.raises(ValueError, match="released"):
                bytes(view)


def test_a_copy_of_a_view_outlives_the_pair_and_is_the_callers_to_wipe() -> None:
    with Plaintext.copy_of("api\nsecret") as pair, split_pair(pair) as (first, _second):
        copied = copy_view(first)
    assert bytes(copied.reveal()) == b"api"
    assert not any(pair.reveal())
    copied.wipe()
