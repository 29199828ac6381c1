"""What tests of uses under way share: uses that last, and a Postgres that says who may not go on."""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from service.errors import CredentialsError, DatabaseUnavailable
from service.modules.records import Credential, OwnerAccess
from service.modules.uses_under_way import UsesUnderWay
from tests.unit.credentials import some_credential

PATIENCE = 60
"""Seconds that a test waits for what has to come."""


class Postgres:
    """In the control store's place: says who is cut off, or fails, or answers nothing."""

    def __init__(self) -> None:
        self.denied: dict[str, CredentialsError] = {}
        self.failures = 0
        self.silent = False
        self.asked: list[list[tuple[str, UUID]]] = []

    async def cut_off(self, uses: Sequence[tuple[str, UUID]]) -> list[CredentialsError | None]:
        self.asked.append(list(uses))
        if self.silent:
            await asyncio.Event().wait()
        if self.failures > 0:
            self.failures -= 1
            raise DatabaseUnavailable
        return [self.denied.get(user_id) for user_id, _ in uses]


def watching(postgres: Any, *, recheck: float = 0.005, grace: float = 3600.0) -> UsesUnderWay:
    return UsesUnderWay(postgres, recheck_seconds=recheck, grace_seconds=grace)


def alices(account_id: UUID | None = None) -> Credential:
    return some_credential(account_id=account_id or uuid4())


def access(user_id: str = "alice") -> OwnerAccess:
    return OwnerAccess(user_id=user_id, actor=f"user:{user_id}")


async def lasting(uses: UsesUnderWay, user_id: str = "alice", credential: Credential | None = None) -> None:
    """A use that lasts until somebody ends it."""
    async with asyncio.timeout(PATIENCE), uses.watched(access(user_id), credential or alices()):
        await asyncio.Event().wait()


async def begun(uses: UsesUnderWay, *blocks: Awaitable[None]) -> list["asyncio.Task[None]"]:
    tasks = [asyncio.ensure_future(block) for block in blocks]
    while uses.count < len(tasks):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    return tasks


async def stopped(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
