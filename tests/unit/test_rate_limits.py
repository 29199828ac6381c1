"""Rate limits: never more than the quota in any minute, counted for both or neither, in memory that has a bound."""

import math
import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import InvalidInput, RateLimited
from service.modules import rate_limits
from service.modules.rate_limits import WINDOW, RateLimits, Standing, Use
from service.modules.records import OwnerAccess
from service.use_settings import UseSettings


class Clock:
    """Stands until it is set."""

    def __init__(self, now: float = 1000.5) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def limits(clock: Clock | None = None, *, caller: int = 0, user: int = 0) -> RateLimits:
    """Limits on hand-offs alone."""
    given = dict.fromkeys((name for name in UseSettings.model_fields if "per_minute" in name), 0)
    given |= {"handoffs_per_minute_caller": caller, "handoffs_per_minute": user}
    return RateLimits(cast(Any, SimpleNamespace(**given)), clock=clock or Clock())


def access(user: str = "alice", actor: str = "orchestrator:robot") -> OwnerAccess:
    return OwnerAccess(user_id=user, actor=actor)


def is_taken(counted: RateLimits, of: OwnerAccess) -> bool:
    try:
        counted.take(Use.HAND_OFF, of)
    except RateLimited:
        return False
    return True


STEPS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0.0, 0.001, 0.999, 1.0, 30.0, 59.0, 59.999, 60.0, 61.0]), st.floats(0, 20)),
        st.integers(1, 4),
    ),
    max_size=60,
)


@given(start=st.floats(0, 1e9), steps=STEPS, quota=st.integers(1, 12))
@example(start=0.99, steps=[(0.0, 4), (59.02, 4)], quota=2)  # in the seconds 0 and 60, and less than 60 apart
def test_no_window_has_more_than_the_quota(start: float, steps: list[tuple[float, int]], quota: int) -> None:
    clock = Clock(start)
    counted, taken = limits(clock, user=quota), []
    for wait, tries in steps:
        clock.now += wait
        taken += [clock.now for _ in range(tries) if is_taken(counted, access())]
    for at in taken:
        assert sum(at <= other < at + WINDOW for other in taken) <= quota


@given(start=st.floats(0, 1e9), steps=STEPS, quota=st.integers(1, 12))
def test_what_is_refused_has_room_after_retry_after_and_no_later_than_a_second_over_the_window(
    start: float, steps: list[tuple[float, int]], quota: int
) -> None:
    clock = Clock(start)
    counted = limits(clock, user=quota)
    for wait, tries in steps:
        clock.now += wait
        for _ in range(tries):
            if is_taken(counted, access()):
                continue
            with pytest.raises(RateLimited) as raised:
                counted.take(Use.HAND_OFF, access())
            wait_for = raised.value.retry_after or 0.0
            assert 0 < wait_for <= WINDOW + 1
            clock.now += math.ceil(wait_for)
            assert is_taken(counted, access())


def test_it_tells_what_is_left_and_when_there_is_more() -> None:
    clock = Clock(1000.0)
    counted = limits(clock, caller=10, user=2)
    assert counted.standings(Use.HAND_OFF, access()) == [Standing("caller", 10, 10, 0), Standing("user", 2, 2, 0)]
    counted.take(Use.HAND_OFF, access())
    clock.now += 20
    counted.take(Use.HAND_OFF, access())
    assert counted.standings(Use.HAND_OFF, access()) == [Standing("caller", 10, 8, 41), Standing("user", 2, 0, 41)]
    assert counted.standings(Use.HAND_OFF, access("bob")) == [Standing("caller", 10, 8, 41), Standing("user", 2, 2, 0)]
    clock.now += 41  # the first is 61 seconds old
    assert counted.standings(Use.HAND_OFF, access())[1] == Standing("user", 2, 1, 20)


def test_a_users_limit_costs_the_caller_nothing() -> None:
    counted = limits(caller=5, user=1)
    assert is_taken(counted, access())
    assert not any(is_taken(counted, access()) for _ in range(50))
    assert [is_taken(counted, access(f"user {n}")) for n in range(6)] == [True] * 4 + [False] * 2


def test_a_callers_limit_costs_the_users_nothing() -> None:
    counted = limits(caller=1, user=2)
    assert is_taken(counted, access("bob"))
    assert not any(is_taken(counted, access()) for _ in range(50))
    assert counted.standings(Use.HAND_OFF, access())[1] == Standing("user", 2, 2, 0)
    assert is_taken(counted, access(actor="user:alice"))


def test_several_callers_share_a_users_limit() -> None:
    counted = limits(user=2)
    assert is_taken(counted, access(actor="orchestrator:one"))
    assert is_taken(counted, access(actor="user:alice"))
    assert not is_taken(counted, access(actor="orchestrator:two"))


def test_each_kind_of_use_is_counted_by_itself() -> None:
    settings = UseSettings(
        handoffs_per_minute=1, validations_per_minute=1, proxy_calls_per_minute=1, opens_per_minute=1
    )
    counted = RateLimits(settings, clock=Clock())
    for use in Use:
        counted.take(use, access())
        with pytest.raises(RateLimited):
            counted.take(use, access())
    assert counted.refused == {(use, "user"): 1 for use in Use}


def test_without_a_limit_nothing_is_counted_nor_told() -> None:
    counted = limits()
    assert all(is_taken(counted, access()) for _ in range(1000))
    assert counted.standings(Use.HAND_OFF, access()) == []


def test_opens_are_not_limited_unless_a_setting_says_so() -> None:
    counted = RateLimits(UseSettings(), clock=Clock())
    assert counted.standings(Use.OPEN, access()) == []
    assert [len(counted.standings(use, access())) for use in Use] == [0, 2, 2, 2]


def test_a_limit_that_is_reached_is_no_value_error() -> None:
    counted = limits(user=1)
    counted.take(Use.HAND_OFF, access())
    with pytest.raises(RateLimited) as raised:
        counted.take(Use.HAND_OFF, access())
    assert not isinstance(raised.value, ValueError)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 600, None, 7])
def test_a_name_that_nobody_has_is_refused_by_its_field(name: Any) -> None:
    counted = limits(user=1)
    with pytest.raises(InvalidInput, match="user_id"):
        counted.take(Use.HAND_OFF, access(name))
    with pytest.raises(InvalidInput, match="actor"):
        counted.take(Use.HAND_OFF, access(actor=name))


def names_in(counted: RateLimits) -> int:
    return max(len(limit._counts) for each in counted._limits.values() for limit in each)


def test_a_caller_at_its_limit_names_no_further_users() -> None:
    counted = limits(caller=10, user=10)
    for number in range(1000):
        is_taken(counted, access(f"user {number}"))
    assert names_in(counted) == 10


def test_names_are_forgotten_when_their_uses_count_no_longer() -> None:
    clock = Clock()
    counted = limits(clock, user=10)
    for number in range(1000):
        counted.take(Use.HAND_OFF, access(f"user {number}"))
    clock.now += WINDOW + 1
    for number in range(1000):
        counted.take(Use.HAND_OFF, access(f"later user {number}"))
    assert names_in(counted) == 1000


def test_however_many_are_named_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a name as long as may be, and none of them expiring."""
    monkeypatch.setattr(rate_limits, "MAX_NAMES", 500)
    counted = limits(user=10)
    name = "é" * 250
    for number in range(1000):
        counted.take(Use.HAND_OFF, access(f"{name}{number}"))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1000, 6000):
            counted.take(Use.HAND_OFF, access(f"{name}{number}"))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert names_in(counted) == 500
    # As much as the 500 that stand in the place of the earlier ones, whose memory wasn't traced.
    assert grown < 500 * 600


def test_a_name_that_is_used_all_the_time_takes_no_more_than_a_minutes_seconds() -> None:
    clock = Clock()
    counted = limits(clock, user=10**9)
    for _ in range(5000):
        clock.now += 0.1
        counted.take(Use.HAND_OFF, access())
    (counts,) = counted._limits[Use.HAND_OFF][0]._counts.values()
    assert len(counts.entries) <= 2 * (WINDOW + 1)
