"""`Plaintext`: shows stars, can't be copied or pickled, reads as zeros once wiped."""

import copy
import json
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.memory.plaintext import MASK, Plaintext, wipe
from tests.support import canary


@given(st.binary(max_size=200))
def test_wiping_zeroes_every_byte_in_place_and_keeps_the_length(content: bytes) -> None:
    buffer = bytearray(content)
    view = memoryview(buffer)
    wipe(buffer)
    assert bytes(view) == bytes(len(content))


def test_the_block_wipes_what_it_was_given_however_it_ends() -> None:
    for failure in (None, ValueError(), KeyboardInterrupt()):
        buffer = bytearray(b"secret")
        try:
            with Plaintext(buffer) as held:
                assert bytes(held.reveal()) == b"secret"
                kept = held.reveal()
                if failure is not None:
                    raise failure
        except (ValueError, KeyboardInterrupt):
            pass
        assert buffer == bytes(6)
        assert kept == bytes(6)
        held.wipe()  # a second time is fine


def test_every_way_of_showing_it_shows_stars() -> None:
    secret = canary()
    with Plaintext.copy_of(secret) as held:
        shown = [repr(held), str(held), f"{held}", f"{held!r:>80}", "%s" % held, repr([held]), repr({"key": held})]  # noqa: UP031 - a way that log lines are made
        for text in shown:
            assert secret not in text
            assert MASK in text
        assert not hasattr(held, "__dict__")


def test_a_traceback_with_locals_shows_stars() -> None:
    secret = canary()

    def fail(held: Plaintext) -> None:
        raise RuntimeError

    with Plaintext.copy_of(secret) as held:
        del secret
        revealed = str(held.reveal(), "ascii")
        try:
            fail(held)
        except RuntimeError as error:
            below = error.__traceback__.tb_next if error.__traceback__ else None
            shown = "".join(traceback.TracebackException(type(error), error, below, capture_locals=True).format())
    assert MASK in shown
    assert revealed not in shown


def test_it_cannot_be_pickled_copied_hashed_or_made_into_json() -> None:
    with Plaintext.copy_of(canary()) as held:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy, hash, json.dumps):
            with pytest.raises(TypeError):
                attempt(held)


def test_two_of_the_same_content_are_not_equal_so_nothing_is_learnt_by_comparing() -> None:
    with Plaintext.copy_of("same") as one, Plaintext.copy_of("same") as other:
        assert one != other


def test_a_copy_of_a_string_holds_its_utf_8_and_leaves_the_string_alone() -> None:
    text = "kéy\ud800"  # a lone surrogate is what `json.loads` makes of "\ud800": refused later, by check_key
    with Plaintext.copy_of(text) as held:
        assert held.reveal() == text.encode("utf-8", "surrogatepass")
        assert len(held) == 7
    assert text == "kéy\ud800"
