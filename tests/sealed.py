"""What tests of sealing share: a database of their own, whose events are recorded, sealed, tampered with, verified."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg

from service.composition import event_verifier
from service.modules.event_chain import SealMark
from service.modules.event_sealer import EventSealer
from service.modules.event_verifier import VerificationReport
from service.postgres.migrate import migrate
from service.rotator import Rotator
from service.settings import Settings
from tests.databases import in_database, own_database
from tests.support import Stack
from tests.written import Connection

KEYS = ["credentials-alpaca", "credentials-polygon"]
ANCHOR = "credentials/data/event-seal"

_RECORD = (
    "INSERT INTO credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome, reason,"
    " transit_key, transit_key_version, batch_id, request_id)"
    " SELECT gen_random_uuid(), $1, gen_random_uuid(), $1, 'user:' || $1, 'open', 'granted', NULL,"
    " 'credentials-alpaca', 1, gen_random_uuid(), 'request' || n FROM generate_series(1, $2::integer) n"
)


@dataclass(frozen=True)
class Trail:
    """A database's events and seals. `conn` is the owner of its tables, who may do anything to them."""

    stack: Stack
    conn: Connection
    owner_url: str
    settings: Settings

    @property
    def rotator_settings(self) -> Settings:
        settings = self.settings.as_rotator()
        assert settings is not None
        return settings

    async def record(self, count: int = 1, *, conn: "Connection | None" = None) -> str:
        """Records events, in one transaction; returns the user that they are about."""
        user = f"user-{uuid4()}"
        await (conn or self.conn).execute(_RECORD, user, count)
        return user

    @asynccontextmanager
    async def sealer(self, **given: Any) -> AsyncIterator[EventSealer]:
        """The sealer of a worker; `given`: of its own attributes."""
        async with Rotator.open(self.rotator_settings) as rotator:
            for name, value in given.items():
                setattr(rotator.sealer, f"_{name}", value)
            yield rotator.sealer

    async def seal(self, **given: Any) -> int:
        """What a worker does every few seconds; returns how many seals it made."""
        async with self.sealer(**given) as sealer:
            return await sealer.run()

    async def recorded_and_sealed(self, *counts: int) -> None:
        """A seal for each of these counts of events."""
        async with self.sealer() as sealer:
            for count in counts:
                await self.record(count)
                assert await sealer.run() == 1

    async def verify(self, expected: SealMark | None = None) -> VerificationReport:
        """What `events verify` does, as the service's own login."""
        async with event_verifier(self.settings) as verifier:
            return await verifier.verify(expected)

    async def found(self, expected: SealMark | None = None) -> set[tuple[int | None, str]]:
        """Seal and problem of what verification finds."""
        report = await self.verify(expected)
        assert len(report.findings) == report.problems
        return {(each.seal, each.problem) for each in report.findings}

    async def newest(self) -> SealMark:
        row = await self.conn.fetchrow("SELECT number, seal_sha256 FROM event_seals ORDER BY number DESC LIMIT 1")
        assert row is not None
        return SealMark(*row)

    def anchor(self) -> SealMark | None:
        """What Vault has."""
        answer = self.stack.vault("GET", ANCHOR)
        if not answer.is_success:
            return None
        data = answer.json()["data"]["data"]
        return SealMark(data["number"], bytes.fromhex(data["sha256"]))


@asynccontextmanager
async def trail(stack: Stack) -> AsyncIterator[Trail]:
    """A new, empty database that belongs to the stack's Vault. One at a time: Vault has one anchor."""
    assert stack.vault("DELETE", "credentials/metadata/event-seal").is_success
    async with own_database(stack) as name:
        owner_url = in_database(stack.owner_url, name)
        await migrate(owner_url, transit_keys=KEYS)
        conn: Connection = await asyncpg.connect(owner_url)
        try:
            await conn.execute("UPDATE installation SET id = $1", stack.installation_id)
            settings = stack.settings(
                database_url=in_database(stack.runtime_url, name),
                rotator_database_url=in_database(stack.rotator_url, name),
            )
            yield Trail(stack, conn, owner_url, settings)
        finally:
            await conn.close()
