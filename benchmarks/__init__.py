"""Measures opening a credential side by side with what else one could do. `make bench`; `python -m benchmarks --help`.

Reading order: `ratios` says what is compared and what is wanted; `suite` runs it on a `testbed`; `worker` is a
contender's process, and `ours`, `usual` and `one_by_one` are the contenders; `report` shows it.
"""
