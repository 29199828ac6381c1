"""What a contender's process is told, and what a contender is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.loading import Loaded

Opener = Callable[[Loaded], Awaitable[None]]
"""Opens one credential with its event on record, has both keys in hand, and lets go of them."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Where everything is. Reaches the process by its standard input: arguments are anybody's to read."""

    contender: str
    credentials_file: str
    database_url: str = field(repr=False)
    vault_addr: str
    vault_token: str = field(repr=False)
    """A token that may decrypt and nothing else; for the alternatives (ours logs in by itself)."""
    transit_mount: str
    transit_key: str
