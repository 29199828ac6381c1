"""Whether an id that no row has was a credential's before: such an id never comes back."""

from uuid import UUID

from service.modules.coalescer import BatchLimits, Coalescer
from service.modules.ports import CredentialStore
from service.modules.records import IdPast


class PastIds:
    """What is known of ids. What is asked at the same time is one statement. Belongs to one event loop."""

    def __init__(self, store: CredentialStore, limits: BatchLimits) -> None:
        self._asked = Coalescer[UUID, IdPast](store.pasts, limits, name="past-ids")

    async def of(self, credential_id: UUID) -> IdPast:
        """Of an id that the caller has seen no row of: what was deleted before that is told."""
        return await self._asked.call(credential_id, group="")

    async def aclose(self) -> None:
        """Ends the statements under way."""
        await self._asked.aclose()
