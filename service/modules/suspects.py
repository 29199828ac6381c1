"""Credentials that their provider refuses: noted, cleared when it accepts them again, disabled where that is wanted."""

from uuid import UUID

from service.modules.control_ports import ControlStore
from service.modules.records import Credential, OwnerAccess


class Suspects:
    """Notes what providers say of keys, in a validation or a call.

    Guarantees: an event when a credential turns suspect and when it is cleared, and at no other time; nothing is noted
    of keys that have been replaced since `credential` was read; where nothing changes, nothing is asked of Postgres.
    Does not: disable anything but in `sweep`.
    """

    def __init__(self, store: ControlStore) -> None:
        self._store = store

    async def refused(self, access: OwnerAccess, credential: Credential) -> None:
        """The provider has refused this credential's keys. Raises TemporarilyUnavailable's kinds."""
        if credential.suspect_since is None:
            await self._store.note_refused(access, credential)

    async def accepted(self, access: OwnerAccess, credential: Credential) -> None:
        """The provider has accepted this credential's keys. Raises TemporarilyUnavailable's kinds."""
        if credential.suspect_since is not None:
            await self._store.note_accepted(access, credential)

    async def sweep(self, *, seconds: float, at_once: int) -> list[UUID]:
        """Disables what stayed suspect for `seconds`, and returns which; any process may do it at any time.

        Where as many as `at_once` of one type turned suspect within `seconds` of each other it is the provider's fault,
        and none of them is disabled, whatever has become of the others: cleared, updated, disabled or deleted. An
        installation that has fewer credentials of a type than that can't tell the provider's fault from theirs.
        """
        return await self._store.disable_suspects(seconds=seconds, at_once=at_once)
