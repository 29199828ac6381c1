"""The kill switch: users and accounts whose credentials nobody may use."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from service.errors import CredentialsError, InvalidInput
from service.modules.control_ports import ControlStore, Suspendable
from service.modules.input_checks import check_user_id, uuid_from
from service.modules.records import Cursor, Suspension, SuspensionAccess, SuspensionReadAccess
from service.modules.uses_under_way import UsesUnderWay
from service.schemas.suspension_schemas import MAX_REASON

_COUNTING_SECONDS = 1.0


class Suspensions:
    """Suspends, lifts that, and tells what is in force.

    Guarantees: what asks to open, to hand off or to call a provider after `suspend` has returned is denied, in every
    process; what is under way in this process has been cancelled by then, and what is in another one is within its
    `recheck_seconds`. The same suspension twice is one, and one event. Denied is whatever has to decrypt, validating,
    rolling back and changing one key of a pair included; storing, replacing both keys, disabling and deleting are not.
    Does not: take back what was handed out: a hand-off lasts until its time is over, and plaintext in a block of the
    library until the block ends. How many credentials it is about is counted afterwards, and is None where that takes
    longer than a second.

    `counting` is the same store over other connections: those of `store` are for suspending alone.
    """

    def __init__(self, store: ControlStore, under_way: UsesUnderWay, *, counting: ControlStore) -> None:
        self._store = store
        self._under_way = under_way
        self._counting = counting

    async def suspend(
        self,
        access: SuspensionAccess,
        *,
        user_id: str | None = None,
        account_id: str | UUID | None = None,
        reason: str | None = None,
    ) -> Suspension:
        """Suspends a user or an account (one is given), known or not. Returns what is in force, perhaps since before.

        Raises:
            InvalidInput: names the field. DatabaseUnavailable: it may be in force all the same; say it again.
        """
        whom = _suspendable(user_id, account_id)
        if reason is not None and (not reason.isprintable() or not 1 <= len(reason) <= MAX_REASON):
            raise InvalidInput("reason", f"must be 1 to {MAX_REASON} printable characters")
        suspension = await self._store.suspend(access, whom, reason)
        self._under_way.cut(whom)
        return (await self._counted([suspension]))[0]

    async def resume(
        self, access: SuspensionAccess, *, user_id: str | None = None, account_id: str | UUID | None = None
    ) -> None:
        """Lifts a suspension. Whose user and account are both suspended needs both lifted.

        Raises:
            SuspensionNotFound: there is none. InvalidInput: names the field.
        """
        await self._store.resume(access, _suspendable(user_id, account_id))

    async def get(
        self, _access: SuspensionReadAccess, *, user_id: str | None = None, account_id: str | UUID | None = None
    ) -> Suspension:
        """The suspension in force. Raises as `resume`."""
        return (await self._counted([await self._store.suspension(_suspendable(user_id, account_id))]))[0]

    async def page(self, _access: SuspensionReadAccess, after: Cursor | None, limit: int) -> list[Suspension]:
        """What is in force, newest first, at most `limit`."""
        return await self._counted(await self._store.suspensions(after, limit))

    async def _counted(self, found: Sequence[Suspension]) -> list[Suspension]:
        """With how many credentials each is about, where that can be had soon: nobody who suspends waits for more."""
        whom = [Suspendable(user_id=each.user_id, account_id=each.account_id) for each in found]
        try:
            async with asyncio.timeout(_COUNTING_SECONDS):
                counts = await self._counting.count_suspended(whom)
        except (CredentialsError, TimeoutError):
            return list(found)
        return [replace(each, credentials=count) for each, count in zip(found, counts, strict=True)]


def _suspendable(user_id: str | None, account_id: str | UUID | None) -> Suspendable:
    if account_id is not None:
        return Suspendable(account_id=uuid_from("account_id", account_id))
    return Suspendable(user_id=check_user_id(user_id or ""))
