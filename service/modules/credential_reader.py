"""Reading metadata and history. No secret is within reach here."""

from uuid import UUID

from service.errors import CredentialNotFound
from service.modules.input_checks import uuid_from
from service.modules.ports import AccessLog, CredentialStore
from service.modules.records import (
    Credential,
    CredentialFilter,
    Cursor,
    EventFilter,
    ReadAccess,
    RecordedEvent,
)


class CredentialReader:
    """Metadata and events, as far as the access goes: an owner's own, an auditor's all."""

    def __init__(self, store: CredentialStore, log: AccessLog) -> None:
        self._store = store
        self._log = log

    async def get(self, access: ReadAccess, credential_id: str | UUID) -> Credential:
        """Raises CredentialNotFound, for another user's credential as for none. InvalidInput: not a UUID."""
        return await self._store.get(access, uuid_from("credential_id", credential_id))

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
