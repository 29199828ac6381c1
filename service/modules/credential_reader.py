"""Reading metadata and history. No secret is within reach here."""

from uuid import UUID

from service.errors import CredentialNotFound
from service.modules.coalescer import BatchLimits, Coalescer
from service.modules.input_checks import check_user_id, uuid_from
from service.modules.ports import AccessLog, CredentialStore
from service.modules.records import (
    Credential,
    CredentialFilter,
    Cursor,
    EventFilter,
    OwnerAccess,
    ReadAccess,
    RecordedEvent,
)


class CredentialReader:
    """Metadata and events, as far as the access goes: an owner's own, an auditor's all.

    Single credentials that are asked for at the same time are read in one statement, which begins after all of them
    were asked for, so that what was committed before is seen. Belongs to one event loop.
    """

    def __init__(self, store: CredentialStore, log: AccessLog, limits: BatchLimits) -> None:
        self._store = store
        self._log = log
        self._reads = Coalescer[tuple[ReadAccess, UUID], Credential](store.get_each, limits, name="reads")

    @property
    def waiting(self) -> int:
        """Calls of `get` that are in no statement yet."""
        return self._reads.waiting

    async def get(self, access: ReadAccess, credential_id: str | UUID) -> Credential:
        """One credential's row.

        Raises:
            CredentialNotFound: another user's, or none. Busy: too much is waiting. InvalidInput: not a UUID, or the
                user's name would fail a whole statement.
        """
        wanted = uuid_from("credential_id", credential_id)
        group = check_user_id(access.user_id) if isinstance(access, OwnerAccess) else access.actor
        return await self._reads.call((access, wanted), group=group)

    async def aclose(self) -> None:
        """Ends the statements under way."""
        await self._reads.aclose()

    async def page(
        self, access: ReadAccess, wanted: CredentialFilter, after: Cursor | None, limit: int
    ) -> list[Credential]:
        """Newest first, at most `limit`."""
        return await self._store.page(access, wanted, after, limit)

    async def events(
        self, access: ReadAccess, wanted: EventFilter, after: Cursor | None, limit: int
    ) -> list[RecordedEvent]:
        """Newest first, at most `limit`. Of one credential: also after its deletion.

        Raises:
            CredentialNotFound: of a credential that the access shows neither a row nor an event of.
        """
        events = await self._log.page(access, wanted, after, limit)
        if not events and wanted.credential_id is not None:
            await self._ensure_known(access, wanted.credential_id)
        return events

    async def _ensure_known(self, access: ReadAccess, credential_id: UUID) -> None:
        try:
            await self._store.get(access, credential_id)
        except CredentialNotFound:
            # Deleted since, perhaps: then its history without the filters is not empty.
            if not await self._log.page(access, EventFilter(credential_id=credential_id), None, 1):
                raise
