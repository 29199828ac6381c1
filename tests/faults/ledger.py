"""What callers know to be true: which secret each credential may open as, and which events have to be there.

A credential's keys are made from its account id, which no other has, and a version number: whoever sees an opened pair
can tell whose it is, of which version, and whether the two belong together.
"""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID, uuid4

from tests.written import Pair


def keys_of(account_id: UUID, version: int) -> Pair:
    """The keys of one version of one credential."""
    digest = hashlib.sha256(f"{account_id} {version}".encode()).hexdigest()
    return f"AK{account_id.hex}v{version}", f"SK{digest[:40]}"


@dataclass(eq=False)
class Held:
    """One credential, as its owner knows it."""

    user_id: str
    account_id: UUID = field(default_factory=uuid4)
    id: str = ""
    """Empty until its storing was acknowledged."""
    newest: int = 1
    """The newest version that was ever sent."""
    possible: set[int] = field(default_factory=lambda: {1})
    gone: Literal["no", "maybe", "yes"] = "no"

    @property
    def idempotency_key(self) -> str:
        return self.account_id.hex

    def wrongness(self, keys: Pair) -> str | None:
        """What is wrong with an opened pair; None: nothing. A new version that was seen stays."""
        if self.gone == "yes":
            return "a deleted credential opens"
        for version in sorted(self.possible, reverse=True):
            if keys == keys_of(self.account_id, version):
                if version == max(self.possible):
                    self.possible = {version}
                return None
        for version in range(1, self.newest + 1):
            if keys == keys_of(self.account_id, version):
                return f"opens as version {version}, and may be {sorted(self.possible)}"
        return "opens as something that was never its own"


@dataclass
class Ledger:
    """Everything that callers were told."""

    held: list[Held] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Request id to the action that its answer acknowledged."""
    violations: list[str] = field(default_factory=list)

    def some(self, user_id: str) -> Held | None:
        """One of a user's credentials that is there."""
        found = [held for held in self.held if held.user_id == user_id and held.id and held.gone == "no"]
        return random.choice(found) if found else None  # noqa: S311 - a test's choice

    @staticmethod
    def is_there(held: Held) -> bool:
        """Whether it was not found gone."""
        return held.gone != "yes"

    def owned(self, user_id: str) -> int:
        """How many a user has."""
        return sum(held.user_id == user_id and held.gone != "yes" for held in self.held)
