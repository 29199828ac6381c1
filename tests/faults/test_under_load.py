"""Under load, faults of every kind: nothing is lost, nothing is wrong, and all is well again when the fault is over.

While a fault lasts callers get 503 with Retry-After, or what it says beside it (a killed service's connections break);
never a 500, an answer that says nothing, or none at all. `make faults` runs the same for longer, and measures.
"""

import pytest

from tests.faults.callers import Load
from tests.faults.faults import FAULTS, Fault
from tests.faults.phases import Outcome, examine, suffer

AGAIN_WITHIN = 60.0
"""Seconds; 5 on a machine that does nothing else, which is for `make faults` to show."""

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
async def test_nothing_is_lost_nor_wrong_and_all_is_well_again_after(load: Load, fault: Fault) -> None:
    outcome = Outcome(fault.name)
    try:
        await suffer(load, fault, outcome)
    except TimeoutError:
        outcome.violations.append("all was not well again in time")
    await examine(load, outcome)
    assert not outcome.violations
    assert outcome.ok, "nobody did anything"
    assert outcome.credentials
    assert outcome.events
    if fault.unnoticed:  # but by a machine that stands still
        assert outcome.refused * 20 <= outcome.ok
    assert max(outcome.again_within) < AGAIN_WITHIN
