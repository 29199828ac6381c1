"""Examples of one target, made from a seed: the same ones for the same seed."""

from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import Target


def explore(target: Target, examples: int, number: int) -> int:
    """Tries so many; how many it were. Raises what the smallest that fails raises."""
    tried = 0

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(target.examples)
    def holds(example: Any) -> None:
        nonlocal tried
        tried += 1
        target.holds(example)

    holds()
    return tried
