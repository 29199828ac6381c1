"""What the controls need of Postgres, as a protocol: suspensions, suspects, and who is cut off by now.

Every method may raise `TemporarilyUnavailable`'s kinds and DatabaseNotReady.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from service.errors import CredentialDenied
from service.modules.records import Credential, Cursor, OwnerAccess, Suspension, SuspensionAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspendable:
    """A user, or an account of whichever user: one of the two is given."""

    user_id: str | None = None
    account_id: UUID | None = None


class ControlStore(Protocol):
    """The `suspensions` table, and the column that says since when a credential is suspect."""

    async def suspend(self, access: SuspensionAccess, whom: Suspendable, reason: str | None) -> Suspension:
        """Suspends, with an event; where that is so already, nothing changes. Returns what is in force."""
        ...

    async def resume(self, access: SuspensionAccess, whom: Suspendable) -> None:
        """Lifts the suspension, with an event. Raises SuspensionNotFound where there is none."""
        ...

    async def suspension(self, whom: Suspendable) -> Suspension:
        """Raises SuspensionNotFound where there is none."""
        ...

    async def suspensions(self, after: Cursor | None, limit: int) -> list[Suspension]:
        """Newest first, from after the cursor, at most `limit`."""
        ...

    async def count_suspended(self, whom: Sequence[Suspendable]) -> list[int]:
        """How many credentials each has, in order, active or not; 1001 for any more than 1000."""
        ...

    async def cut_off(self, uses: Sequence[tuple[str, UUID]]) -> list[CredentialDenied | None]:
        """Of each user and credential, in order, why it may not be used any more; None where it still may.

        Suspended, CredentialNotFound (deleted, or another user's by now) or CredentialInactive.
        """
        ...

    async def note_refused(self, access: OwnerAccess, credential: Credential) -> None:
        """Makes it suspect, with an event; nothing where it is already, or has other keys than `credential`."""
        ...

    async def note_accepted(self, access: OwnerAccess, credential: Credential) -> None:
        """Makes it suspect no more, with an event; nothing where it isn't, or has other keys than `credential`."""
        ...

    async def disable_suspects(self, *, seconds: float, at_once: int) -> list[UUID]:
        """Disables what has been suspect for `seconds`, each with an event; returns which.

        Not where `at_once` or more credentials of its type, itself included, turned suspect within `seconds` before or
        after it, whatever became of them since; and not what turned suspect more than a week ago (plus `seconds`).
        """
        ...
