"""A short fuzz of everything that reads what others send; `make fuzz` goes on for as long as it is told.

The seed is the same each time, so that a change that is made is what turns it red.
"""

import pytest

from tests.fuzz.exploring import explore
from tests.fuzz.targets import GOOD, TARGETS, Target, token

EXAMPLES = 250


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_refused_or_read_as_others_read_it(name: str) -> None:
    assert explore(TARGETS[name], EXAMPLES, 7) > 100


def test_the_fuzz_finds_what_does_not_hold() -> None:
    """One token is taken that is not the good one: the fuzz of tokens has to see it."""

    def lax(given: bytes) -> None:
        assert given[:10] == GOOD[:10] or not given.startswith(b"e"), given
        token(given)

    with pytest.raises(AssertionError):
        explore(Target(TARGETS["tokens"].examples, lax), 2000, 7)
