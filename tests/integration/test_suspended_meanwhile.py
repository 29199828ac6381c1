"""Vault is slow, and somebody is suspended after a use was granted and before Vault answers: it comes to nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
import pytest
from aiohttp import web

from service.composition import Runtime
from service.errors import Suspended
from service.modules.records import SuspensionAccess
from tests.doubles.before_vault import BeforeVault
from tests.proxying import ORDER, Held, Proxied, events, proxied
from tests.rest import Headers, client_on
from tests.stored import owner, some_user, store
from tests.support import Stack
from tests.written import Connection

PATIENCE = 60
RECHECK = 0.2


class SlowVault:
    """Vault behind something that keeps requests back for as long as a test says."""

    def __init__(self, before: BeforeVault) -> None:
        self._before = before
        self._let_go = asyncio.Event()
        self.waiting = asyncio.Event()

    def hold(self) -> None:
        """Keeps what comes from now on."""
        self._let_go.clear()
        self.waiting.clear()
        self._before.fault = self._kept

    def let_go(self) -> None:
        """Lets all of it through."""
        self._before.fault = None
        self._let_go.set()

    async def _kept(self, request: web.Request) -> web.StreamResponse:
        self.waiting.set()
        await self._let_go.wait()
        return await self._before.usual(request)


@pytest.fixture
async def vault(stack: Stack) -> AsyncIterator[tuple[str, SlowVault]]:
    async with BeforeVault(stack.vault_addr) as before:
        slow = SlowVault(before)
        yield before.url, slow
        slow.let_go()


@asynccontextmanager
async def behind(
    vault: tuple[str, SlowVault], stack: Stack, bearer: Callable[..., Headers]
) -> AsyncIterator[tuple[Proxied, httpx.AsyncClient]]:
    """A replica behind the slow Vault, and one that isn't."""
    url, _slow = vault
    async with (
        proxied(stack, bearer, vault_addr=url, vault_timeout=PATIENCE, recheck_seconds=RECHECK) as service,
        client_on(stack.settings()) as other,
    ):
        yield service, other


async def used(service: Proxied, held: Held, way: str) -> httpx.Response:
    if way == "trade":
        return await service.call(held, "POST", "v2/orders", json=ORDER)
    headers = held.headers if way == "validate" else service.bearer("orchestrator", "robot")
    acting = {} if way == "validate" else {"X-User-Id": held.user_id}
    return await service.client.post(f"/v1/credentials/{held.id}/{way}", headers={**headers, **acting})


@pytest.mark.parametrize("where", ["the same replica", "another replica"])
@pytest.mark.parametrize("way", ["trade", "handoff", "validate"])
async def test_what_was_granted_before_a_suspension_and_is_decrypted_after_it_is_not_used(
    way: str,
    where: str,
    vault: tuple[str, SlowVault],
    stack: Stack,
    bearer: Callable[..., Headers],
    owner_conn: Connection,
) -> None:
    async with behind(vault, stack, bearer) as (service, other), asyncio.timeout(PATIENCE):
        held = await service.held()
        service.alpaca.seen.clear()
        vault[1].hold()
        using = asyncio.ensure_future(used(service, held, way))
        await vault[1].waiting.wait()
        replica = service.client if where == "the same replica" else other
        suspended = await replica.post(f"/v1/users/{held.user_id}/suspension", headers=bearer("operator", "olga"))
        assert suspended.status_code == 200
        await asyncio.sleep(2 * RECHECK)
        vault[1].let_go()
        answer = await using
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (403, "suspended")
        assert not service.alpaca.seen
        recorded = await events(owner_conn, held.id)
        assert [(outcome, reason) for _action, outcome, reason in recorded] == [
            ("granted", None),
            ("failed", "suspended"),
        ]


async def test_an_open_of_the_library_that_took_long_is_asked_about_again(
    vault: tuple[str, SlowVault], stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    url, slow = vault
    stored = await store(runtime)
    async with (
        Runtime.open(stack.settings(vault_addr=url, vault_timeout=PATIENCE, recheck_seconds=RECHECK)) as late,
        asyncio.timeout(PATIENCE),
    ):
        slow.hold()

        async def opened() -> None:
            async with late.opener.reveal(owner(stored.user_id), stored.id):
                pytest.fail("it was opened")

        opening = asyncio.ensure_future(opened())
        await slow.waiting.wait()
        await runtime.suspensions.suspend(SuspensionAccess(actor="operator:olga"), user_id=stored.user_id)
        await asyncio.sleep(2 * RECHECK)
        slow.let_go()
        with pytest.raises(Suspended):
            await opening
    assert (await events(owner_conn, str(stored.id)))[-1] == ("open", "failed", "suspended")


async def test_an_open_that_took_long_and_may_still_be_used_is(
    vault: tuple[str, SlowVault], stack: Stack, runtime: Runtime
) -> None:
    url, slow = vault
    stored = await store(runtime)
    async with (
        Runtime.open(stack.settings(vault_addr=url, vault_timeout=PATIENCE, recheck_seconds=RECHECK)) as late,
        asyncio.timeout(PATIENCE),
    ):
        slow.hold()
        opening = asyncio.ensure_future(late.opener.open(owner(stored.user_id), stored.id))
        await slow.waiting.wait()
        await asyncio.sleep(2 * RECHECK)
        slow.let_go()
        with (await opening).pair as pair, pair.reveal() as view:
            assert str(view, "ascii") == "\n".join(stored.keys)


async def test_a_suspension_waits_for_nobody_elses_statements(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    """The only connection for everything else is taken: by a store that waits for a lock."""
    user_id = some_user()
    async with Runtime.open(stack.settings(database_pool_size=1, database_timeout=PATIENCE)) as busy:
        async with asyncio.timeout(PATIENCE), owner_conn.transaction():
            await owner_conn.execute("SELECT FROM key_floors WHERE transit_key = 'credentials-alpaca' FOR UPDATE")
            storing = asyncio.ensure_future(store(busy))
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%key_floors%'"
            )
            while not await owner_conn.fetchval(waiting):
                await asyncio.sleep(0.02)
                await owner_conn.execute("SELECT pg_stat_clear_snapshot()")
            made = await busy.suspensions.suspend(SuspensionAccess(actor="operator:olga"), user_id=user_id)
            assert made.user_id == user_id
            assert not storing.done()
        assert isinstance((await storing).id, UUID)
    await runtime.suspensions.resume(SuspensionAccess(actor="operator:olga"), user_id=user_id)
