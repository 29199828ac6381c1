"""What an import is about: rows of a source, what became of each, what a run has to show."""

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID, uuid5

from service.errors import CredentialsError
from service.memory.plaintext import Plaintext


class Mode(StrEnum):
    """What is done with a source's rows."""

    DRY_RUN = "dry run"  # each is checked; nothing is stored or opened; recorded is only what another user has
    IMPORT = "import"  # each is stored unless it is there, then opened and compared
    VERIFY = "verify"  # what is there is opened and compared; nothing is stored


class Became(StrEnum):
    """What became of one row."""

    IMPORTED = "imported"  # stored by this run, and opens to the source's keys
    PRESENT = "present"  # was here before, and opens to the source's keys (a dry run: is here)
    VALID = "valid"  # a dry run: it could be stored
    WIPED = "wiped"  # the source has no keys of it any more, and it is here and opens (a dry run: is here)
    DIFFERS = "differs"  # is here, and is not what the source has; what is here was left as it is
    DELETED = "deleted"  # it was here, and was deleted; it stays so
    MISSING = "missing"  # a verification: it is not here
    REFUSED = "refused"  # there is something wrong with it
    FAILED = "failed"  # it could not be done


_NAMESPACE = UUID("4d6b1c0e-8a0f-5c3e-9d2b-7f6a1e5c0b42")

_NEEDS_A_LOOK = frozenset({Became.DIFFERS, Became.DELETED, Became.MISSING, Became.REFUSED, Became.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """One credential as a source has it. Whoever takes it wipes the keys."""

    where: str
    """For people: a line's number, a row's id."""
    id: UUID | None = None
    """The credential's id, which it keeps; None: it is made of `identity`."""
    identity: str = ""
    """What tells it from the source's other rows of the same user, account and type."""
    user_id: str
    account_id: str
    credential_type: str
    api_key: Plaintext
    secret_key: Plaintext
    is_active: bool = True
    created_at: datetime | None = None
    is_wiped: bool = False
    """The source had keys once, and they have been wiped there."""
    origin: object = field(default=None, repr=False)
    """What the source itself needs to know its row again: ciphertext, say."""

    @property
    def credential_id(self) -> UUID:
        """Its own id; where it has none, one that is the same in every run and on every machine."""
        if self.id is not None:
            return self.id
        # As JSON, so that no two rows run into the same text.
        told = json.dumps([self.user_id, self.account_id.lower(), self.credential_type, self.identity])
        return uuid5(_NAMESPACE, told)


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that is none. `problem` is fixed text and a field's name, never a value."""

    where: str
    problem: str


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of a row. `problem` is fixed text, and names a field where one is wrong."""

    where: str
    became: Became
    problem: str | None = None
    credential_id: UUID | None = None

    @property
    def needs_a_look(self) -> bool:
        """Whether somebody has to look at this row."""
        return self.became in _NEEDS_A_LOOK


@dataclass(slots=True)
class ImportReport:
    """A run's counts. It holds no row, so it doesn't grow."""

    mode: Mode
    counts: dict[Became, int] = field(default_factory=lambda: dict.fromkeys(Became, 0))
    has_begun: bool = False
    """Some row was gone about: something may have been stored or recorded, whatever the counts are."""
    wiped_now: int = 0
    """Rows whose keys this run has wiped in the source."""
    started: float = field(default_factory=time.monotonic)
    trouble: CredentialsError | None = None
    """What is waited for just now."""
    stopped_by: CredentialsError | None = None
    """What ended the run before the source's end."""
    was_stopped: bool = False
    """Somebody asked for the end before the source's."""

    @property
    def rows(self) -> int:
        """How many there have been."""
        return sum(self.counts.values())

    @property
    def needs_a_look(self) -> int:
        """Those among them that somebody has to look at."""
        return sum(self.counts[each] for each in _NEEDS_A_LOOK)

    @property
    def is_complete(self) -> bool:
        """Whether it came to the source's end, and nobody has to look at anything."""
        return not (self.stopped_by or self.was_stopped or self.needs_a_look)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


Check = Callable[[SourceRow], None]
"""Raises InvalidInput for a row that is wrong by itself, whatever is here and whatever its source has beside it."""


class Source(Protocol):
    """Where credentials come from."""

    @property
    def total(self) -> int:
        """How much there is: rows or bytes."""
        ...

    @property
    def position(self) -> int:
        """How much of it has been read."""
        ...

    def rows(self, check: Check) -> AsyncIterator[SourceRow | UnreadableRow]:
        """All of them. An error of the source as a whole is raised: a CredentialsError.

        `check` is for a source that refuses a row because of an earlier one, and would not for one that is wrong.
        """
        ...
