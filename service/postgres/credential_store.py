"""The `credentials` table: reading, and the last transaction of every write, which is its commit point."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from service.errors import ConcurrentUpdate, CredentialNotFound, DatabaseNotReady, WriteInterrupted
from service.modules.ports import CallerConnection
from service.modules.records import (
    Credential,
    CredentialFilter,
    Cursor,
    Event,
    IdempotencyRecord,
    IdPast,
    Mac,
    OwnerAccess,
    ProviderVerdict,
    ReadAccess,
    WriteIntent,
)
from service.postgres.access_log import event_arguments
from service.postgres.pool import Database
from service.postgres.queries import SQL
from service.postgres.rows import credential_from
from service.settings import Settings


class _BelowFloor(Exception):
    """Rolls a last transaction back whose key version has been retired meanwhile. Never leaves this module."""


class PostgresCredentialStore:
    """`CredentialStore` on Postgres.

    Guarantees: each method is one transaction; a change and its event commit together, or neither does. Does not:
    touch Vault.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._intent_age = settings.intent_age_seconds
        self._idempotency_hours = settings.idempotency_hours
        self._previous_hours = settings.previous_secret_hours

    async def get(self, access: ReadAccess, credential_id: UUID) -> Credential:
        row = await self._database.fetchrow(SQL["get_credential"], credential_id, _owner(access))
        if row is None:
            raise CredentialNotFound
        return credential_from(row)

    async def get_each(self, wanted: Sequence[tuple[ReadAccess, UUID]]) -> list[Credential | Exception]:
        asked = [(credential_id, _owner(access)) for access, credential_id in wanted]
        different = list(dict.fromkeys(asked))
        ids, owners = zip(*different, strict=True)
        rows = await self._database.fetch(SQL["get_credentials"], ids, owners)
        found = {different[row["n"] - 1]: credential_from(row) for row in rows}
        return [found[each] if each in found else CredentialNotFound() for each in asked]

    async def page(
        self, access: ReadAccess, wanted: CredentialFilter, after: Cursor | None, limit: int
    ) -> list[Credential]:
        rows = await self._database.fetch(
            SQL["page_credentials"],
            _owner(access),
            wanted.account_id,
            wanted.credential_type,
            wanted.is_active,
            wanted.updated_before,
            wanted.validated,
            wanted.used,
            wanted.suspect,
            after.at if after else None,
            after.id if after else None,
            limit,
        )
        return [credential_from(row) for row in rows]

    async def pasts(self, credential_ids: Sequence[UUID]) -> list[IdPast]:
        wanted = list(credential_ids)
        async with self._database.transaction() as transaction:
            being_deleted = await transaction.fetch(SQL["being_deleted"], wanted)
            deleted = await deleted_among(transaction, wanted)
        pasts = {row["credential_id"]: IdPast.BEING_DELETED for row in being_deleted}
        pasts |= dict.fromkeys(deleted, IdPast.DELETED)
        return [pasts.get(each, IdPast.UNKNOWN) for each in wanted]

    async def begin_write(self, intent: WriteIntent) -> None:
        await self._database.execute(
            SQL["insert_intent"],
            intent.id,
            intent.credential_id,
            intent.kv_path,
            intent.kv_version,
            float(self._intent_age),
        )
        if intent.id_was_given:
            await self._database.execute(SQL["wait_for_intents"], [intent.kv_path], [intent.id])

    async def abandon_write(self, intent: WriteIntent) -> None:
        await self._database.execute(SQL["delete_intent"], intent.id)

    async def insert(
        self,
        credential: Credential,
        intent: WriteIntent,
        event: Event,
        *,
        idempotency: IdempotencyRecord | None = None,
        conn: CallerConnection | None = None,
        created_at: datetime | None = None,
    ) -> Credential | None:
        reference = credential.reference
        try:
            async with self._database.transaction(conn) as transaction:
                await _end_write(transaction, intent, credential)
                if idempotency is not None:
                    await self._note_idempotency(transaction, idempotency)
                row = await transaction.fetchrow(
                    SQL["insert_credential"],
                    credential.id,
                    credential.user_id,
                    credential.account_id,
                    credential.credential_type,
                    reference.transit_mount,
                    reference.transit_key,
                    reference.transit_key_version,
                    reference.binding,
                    reference.kv_mount,
                    reference.kv_path,
                    reference.kv_version,
                    reference.secret_version,
                    credential.validation_state,
                    credential.account_type,
                    credential.last_validated_at,
                    credential.is_active,
                    created_at,
                )
                await transaction.execute(SQL["record_event"], *event_arguments(event))
                # After the insertion, which nobody can delete yet: whoever has deleted one of this id is committed.
                if intent.id_was_given and await deleted_among(transaction, [credential.id]):
                    raise ConcurrentUpdate
        except _BelowFloor:
            return None
        except asyncpg.UniqueViolationError:
            raise ConcurrentUpdate from None
        return credential_from(row)

    async def _note_idempotency(self, transaction: CallerConnection, record: IdempotencyRecord) -> None:
        scope = (record.actor, record.user_id, record.route, record.key)
        await transaction.execute(SQL["forget_expired_idempotency_key"], *scope)
        await transaction.execute(
            SQL["insert_idempotency_key"],
            *scope,
            record.body_mac.value,
            record.body_mac.key_version,
            record.credential_id,
            self._idempotency_hours,
        )

    async def replace_secret(
        self, before: Credential, after: Credential, intent: WriteIntent, event: Event
    ) -> Credential | None:
        reference = after.reference
        try:
            async with self._database.transaction() as transaction:
                await _end_write(transaction, intent, after)
                row = await transaction.fetchrow(
                    SQL["replace_secret"],
                    before.id,
                    before.row_version,
                    reference.transit_key_version,
                    reference.kv_version,
                    reference.secret_version,
                    after.is_active,
                    self._previous_hours,
                    after.validation_state,
                    after.account_type,
                    after.last_validated_at,
                )
                if row is None:
                    raise ConcurrentUpdate
                await transaction.execute(SQL["record_event"], *event_arguments(event))
        except _BelowFloor:
            return None
        return credential_from(row)

    async def set_active(self, before: Credential, is_active: bool, event: Event) -> Credential:
        async with self._database.transaction() as transaction:
            row = await transaction.fetchrow(SQL["set_active"], before.id, before.row_version, is_active)
            if row is None:
                raise ConcurrentUpdate
            await transaction.execute(SQL["record_event"], *event_arguments(event))
        return credential_from(row)

    async def remove(self, before: Credential, intent: WriteIntent, event: Event) -> None:
        async with self._database.transaction() as transaction:
            row = await transaction.fetchrow(SQL["delete_credential"], before.id, before.row_version)
            if row is None:
                raise ConcurrentUpdate
            # Due at once: deleting a path twice is harmless, so reconciliation needs no head start for the deleter.
            await transaction.execute(
                SQL["insert_intent"], intent.id, intent.credential_id, intent.kv_path, intent.kv_version, 0.0
            )
            await transaction.execute(SQL["record_event"], *event_arguments(event))

    async def record_validation(self, validated: Credential, verdict: ProviderVerdict, event: Event) -> None:
        async with self._database.transaction() as transaction:
            await transaction.execute(
                SQL["record_validation"],
                validated.id,
                validated.secret_version,
                "valid" if verdict.is_valid else "invalid",
                verdict.account_type,
            )
            await transaction.execute(SQL["record_event"], *event_arguments(event))

    async def touch_used(self, credential_ids: Sequence[UUID]) -> None:
        await self._database.execute(SQL["touch_used"], list(credential_ids))

    async def find_idempotent(self, actor: str, user_id: str, route: str, key: str) -> IdempotencyRecord | None:
        row = await self._database.fetchrow(SQL["find_idempotency_key"], actor, user_id, route, key)
        if row is None:
            return None
        return IdempotencyRecord(
            actor=actor,
            user_id=user_id,
            route=route,
            key=key,
            body_mac=Mac(row["mac_key_version"], row["body_mac"]),
            credential_id=row["credential_id"],
        )


async def deleted_among(transaction: CallerConnection, credential_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the ids whose credential was deleted. The transaction is an auditor's from then on."""
    await transaction.execute(SQL["become_auditor"])
    return {row["credential_id"] for row in await transaction.fetch(SQL["deleted_ids"], credential_ids)}


def _owner(access: ReadAccess) -> str | None:
    return access.user_id if isinstance(access, OwnerAccess) else None


async def _end_write(transaction: CallerConnection, intent: WriteIntent, credential: Credential) -> None:
    """The write's intent out, and its key version at or above the floor; both hold until the transaction ends."""
    if await transaction.fetchrow(SQL["delete_intent"], intent.id) is None:
        raise WriteInterrupted
    floor = await transaction.fetchrow(SQL["share_floor"], credential.reference.transit_key)
    if floor is None:
        raise DatabaseNotReady
    if credential.transit_key_version < floor["min_version"]:
        raise _BelowFloor
