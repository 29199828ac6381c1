"""What `make soak` counts and calls flat. That it runs at all is seen by `make soak`."""

import io
from unittest.mock import Mock

from rich.console import Console

from benchmarks.soak import Tally, show
from service.errors import CredentialNotFound


def tally(*samples: float) -> Tally:
    made = Tally()
    made.memory["replica 1"] = list(samples)
    with made.timed("open"):
        pass
    return made


def is_good(made: Tally) -> bool:
    return show(made, Console(file=io.StringIO()))


def test_a_process_that_stays_as_large_is_flat_however_it_began() -> None:
    assert is_good(tally(10, 50, 90, 100, 101, 100, 102, 101))


def test_a_process_that_is_larger_in_the_last_quarter_than_in_the_third_grows() -> None:
    assert not is_good(tally(10, 50, 90, 100, 100, 100, 120, 121))


def test_vault_whose_storage_grows_is_shown_and_not_judged() -> None:
    made = tally(*[100.0] * 8)
    made.memory["Vault"] = [100, 150, 200, 250, 300, 350, 400, 450]
    told = io.StringIO()
    assert show(made, Console(file=told, width=120))
    assert "not judged" in told.getvalue()


def test_a_call_that_failed_or_gave_another_secret_is_told() -> None:
    for error in (CredentialNotFound(), AssertionError("another secret")):
        made = tally(*[100.0] * 8)
        fails = Mock(side_effect=error)
        with made.timed("open"):
            fails()
        assert list(made.failed) == [f"open: {type(error).__name__}"]
        assert not is_good(made)
