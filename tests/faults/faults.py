"""The faults, done for real: each is there while its block runs, and over when the block has been left."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg

from service.localstack.policies import VaultNames, role_policies
from service.localstack.provisioning import CREDENTIAL_TYPES
from tests.faults.callers import Permits
from tests.faults.world import World, filled, tiny_disk
from tests.written import Connection

_NOTHING_ELSE = Permits()
_POLICY = VaultNames().role


@dataclass(frozen=True)
class Fault:
    """One kind of fault: what it is called, what callers may meet meanwhile, and how often a long run has it."""

    name: str
    inflict: Callable[[World], AbstractAsyncContextManager[None]]
    permits: Permits
    long: int = 3
    kills: int = 0
    """How many processes it kills each time."""
    lasts: float = 1.5
    """Seconds."""
    unnoticed: bool = False
    """Nobody is to be refused."""


@asynccontextmanager
async def service_killed(world: World) -> AsyncIterator[None]:
    """Takes turns: each second time the other replica."""
    world.replicas.reverse()
    victim = world.replicas[0]
    world.victim = victim.name
    await victim.kill()
    yield
    await victim.start()


@asynccontextmanager
async def vault_killed(world: World) -> AsyncIterator[None]:
    await world.servers.kill("vault")
    yield
    await world.servers.start("vault")


@asynccontextmanager
async def postgres_killed(world: World) -> AsyncIterator[None]:
    await world.servers.kill("postgres")
    yield
    await world.servers.start("postgres")


@asynccontextmanager
async def postgres_restarted(world: World) -> AsyncIterator[None]:
    await world.servers.stop("postgres")
    yield
    await world.servers.start("postgres")


@asynccontextmanager
async def vault_sealed(world: World) -> AsyncIterator[None]:
    assert world.servers.vault("PUT", "sys/seal").is_success
    yield
    world.servers.unseal()
    async with asyncio.timeout(60):
        while world.servers.vault("GET", "sys/health").status_code != 200:  # noqa: ASYNC110 - Vault's state
            await asyncio.sleep(0.02)


@asynccontextmanager
async def tokens_revoked(world: World) -> AsyncIterator[None]:
    """Those of the service, the worker in it and the library."""
    await asyncio.sleep(3)  # within two seconds of a login a refusal is believed
    assert world.servers.vault("PUT", f"sys/leases/revoke-prefix/auth/{VaultNames().approle}/login").is_success
    yield


@asynccontextmanager
async def policy_removed(world: World) -> AsyncIterator[None]:
    rules = role_policies(VaultNames(), CREDENTIAL_TYPES)[_POLICY]
    assert world.servers.vault("DELETE", f"sys/policies/acl/{_POLICY}").is_success
    yield
    assert world.servers.vault("PUT", f"sys/policies/acl/{_POLICY}", {"policy": rules}).is_success


@asynccontextmanager
async def audit_device_full(world: World) -> AsyncIterator[None]:
    """Vault does nothing that it can't record. Its only device is on a disk that has no byte left."""
    with tiny_disk(world.folder / "audit") as disk:
        device = {"type": "file", "options": {"file_path": str(disk / "audit.log")}}
        former = world.servers.vault("GET", "sys/audit").json()["data"]["file/"]["options"]
        assert world.servers.vault("PUT", "sys/audit/tiny", device).is_success
        assert world.servers.vault("DELETE", "sys/audit/file").is_success
        with filled(disk):
            yield
        # Before anybody can be asked for anything else: the first device back, as the tiny one fills up.
        answer = world.servers.vault("PUT", "sys/audit/file", {"type": "file", "options": former})
        assert answer.is_success, answer.text
        assert world.servers.vault("DELETE", "sys/audit/tiny").is_success


@asynccontextmanager
async def vault_slow(world: World) -> AsyncIterator[None]:
    world.to_vault.delay = 0.3
    yield
    world.to_vault.delay = 0


@asynccontextmanager
async def vault_silent(world: World) -> AsyncIterator[None]:
    world.to_vault.is_silent = True
    yield
    world.to_vault.is_silent = False


@asynccontextmanager
async def postgres_silent(world: World) -> AsyncIterator[None]:
    world.to_postgres.is_silent = True
    yield
    world.to_postgres.is_silent = False


@asynccontextmanager
async def vault_resets(world: World) -> AsyncIterator[None]:
    """Of a connection to Vault in the middle of an answer, batches' among them."""
    world.to_vault.cut_every = 7
    yield
    world.to_vault.cut_every = 0
    assert world.to_vault.cuts > 0


@asynccontextmanager
async def postgres_resets(world: World) -> AsyncIterator[None]:
    world.to_postgres.cut_every = 25
    yield
    world.to_postgres.cut_every = 0
    assert world.to_postgres.cuts > 0


@asynccontextmanager
async def out_of_connections(world: World) -> AsyncIterator[None]:
    """Others have all of Postgres' connections."""
    hogs: list[Connection] = []

    async def hog() -> None:
        while True:
            try:
                hogs.append(await asyncpg.connect(world.stack.runtime_url, timeout=30))
            except (asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError):
                return

    async with world.servers.superuser() as conn:
        ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vault-credentials'"
        await conn.execute(ours)
        await asyncio.gather(*(hog() for _ in range(20)))
        await conn.execute(ours)
        await hog()
        try:
            yield
        finally:
            for each in hogs:
                each.terminate()


@asynccontextmanager
async def read_only(world: World) -> AsyncIterator[None]:
    async with world.servers.superuser() as conn:
        await conn.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await conn.execute("SELECT pg_reload_conf()")
        yield
        await conn.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await conn.execute("SELECT pg_reload_conf()")


@asynccontextmanager
async def disk_full_for_events(world: World) -> AsyncIterator[None]:
    """This month's events are on a disk that has no byte left."""
    with tiny_disk(world.folder / "events", "64m") as disk:
        async with world.servers.superuser() as conn:
            tables = [
                str(row[0])
                for row in await conn.fetch(
                    "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'credential_events'::regclass"
                )
            ]
            with suppress(asyncpg.DuplicateObjectError):
                space = disk / "space"
                space.mkdir()
                await asyncio.to_thread(_give_to_postgres, world, str(space))
                await conn.execute(f"CREATE TABLESPACE tiny LOCATION '{space}'")
            for table in tables:
                await conn.execute(f"ALTER TABLE {table} SET TABLESPACE tiny")
            try:
                with filled(disk):
                    yield
            finally:
                for table in tables:
                    await conn.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
                await conn.execute("DROP TABLESPACE tiny")


def _give_to_postgres(world: World, folder: str) -> None:
    owner = (world.stack.local.state_dir / "postgres").stat()
    os.chown(folder, owner.st_uid, owner.st_gid)


FAULTS = [
    Fault("service killed", service_killed, Permits(broken=True), long=120, kills=1, lasts=0.3),
    Fault("Vault killed", vault_killed, _NOTHING_ELSE, long=45, kills=1, lasts=0.5),
    Fault("Postgres killed", postgres_killed, _NOTHING_ELSE, long=45, kills=1, lasts=0.5),
    Fault("Postgres restarted", postgres_restarted, _NOTHING_ELSE),
    Fault("Vault sealed", vault_sealed, _NOTHING_ELSE),
    Fault("Vault tokens revoked", tokens_revoked, _NOTHING_ELSE, unnoticed=True),
    Fault("Vault policy removed", policy_removed, Permits(problems=frozenset({(502, "vault-denied")}))),
    Fault("Vault audit device full", audit_device_full, _NOTHING_ELSE),
    Fault("Vault slow", vault_slow, _NOTHING_ELSE, lasts=3, unnoticed=True),
    Fault("Vault silent", vault_silent, _NOTHING_ELSE, lasts=6),
    Fault("Vault resets connections", vault_resets, _NOTHING_ELSE, lasts=3),
    Fault("Postgres silent", postgres_silent, _NOTHING_ELSE, lasts=6),
    Fault("Postgres resets connections", postgres_resets, _NOTHING_ELSE, lasts=3),
    Fault("Postgres out of connections", out_of_connections, _NOTHING_ELSE),
    Fault("Postgres read-only", read_only, _NOTHING_ELSE),
    Fault("disk full for events", disk_full_for_events, _NOTHING_ELSE, lasts=3),
]  # fmt: skip
