"""Vault sealed, stopped, killed, throttling, refusing: each has its error, nothing is lost, and it passes by itself.

On a real Vault of this module's own. What only a broken network or load balancer answers is in `test_vault_answers.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from service.composition import Runtime
from service.errors import (
    TemporarilyUnavailable,
    VaultDenied,
    VaultSealed,
    VaultThrottled,
    VaultUnavailable,
)
from tests.conftest import backend
from tests.own_vault import NAMES, OwnVault, own_vault
from tests.support import Stack
from tests.written import Pair, Somebody, pair_of_keys

LOGIN = "auth/approle/login"
BELIEVED = 2.1
"""Seconds after a login from which a refused token is taken for a lost one, and a little more."""


@pytest.fixture(scope="module")
async def vault(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnVault]:
    """Vault, to be left as it was found."""
    async with own_vault(stack, tmp_path_factory.mktemp("trouble"), backend()[0]) as made:
        yield made


@pytest.fixture
async def service(vault: OwnVault) -> AsyncIterator[Runtime]:
    """A service on that Vault."""
    async with Runtime.open(vault.settings()) as opened:
        yield opened


async def failing_checks(service: Runtime) -> set[str]:
    """What the service is not ready for, asked anew."""
    await asyncio.sleep(1.1)  # an answer counts for a second
    return {check.name for check in await service.readiness.check() if not check.ok and check.blocking}


async def recorded(vault: OwnVault, stack: Stack, somebody: Somebody) -> list[tuple[str, str, str | None]]:
    """Action, outcome and reason of each of this user's events."""
    name = vault.database_url.rpartition("/")[2]
    conn = await asyncpg.connect(stack.owner_url.rpartition("/")[0] + f"/{name}")
    query = "SELECT action, outcome, reason FROM credential_events WHERE user_id = $1 ORDER BY id"
    rows = await conn.fetch(query, somebody.user_id)
    await conn.close()
    return [(row["action"], row["outcome"], row["reason"]) for row in rows]


async def test_a_sealed_vault_is_an_error_at_once_and_works_again_when_unsealed(
    vault: OwnVault, service: Runtime, stack: Stack
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(service, keys)
    vault.seal()
    try:
        began = time.monotonic()
        for work in (
            somebody.opens(service, stored.id),
            somebody.store(service, keys),
            somebody.update(service, stored.id, *keys),
            service.reconciler.run(apply=True),
        ):
            with pytest.raises(VaultSealed) as failed:
                await work
            assert failed.value.retry_after == 10
        assert time.monotonic() - began < 8  # it is not waited for (10 s)
        assert await failing_checks(service) == {"vault", "transit", "installation"}
    finally:
        vault.unseal()
    assert await somebody.opens(service, stored.id) == keys
    assert await failing_checks(service) == set()
    assert await recorded(vault, stack, somebody) == [
        ("store", "done", None),
        ("open", "granted", None),
        ("open", "failed", "unavailable"),
        ("open", "granted", None),
    ]


async def test_a_service_that_starts_while_vault_is_sealed_logs_in_when_it_is_unsealed(vault: OwnVault) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    vault.seal()
    try:
        async with Runtime.open(vault.settings()) as early:
            with pytest.raises(VaultSealed):
                await somebody.store(early, keys)
            vault.unseal()
            stored = await somebody.store(early, keys)
            assert await somebody.opens(early, stored.id) == keys
    finally:
        vault.unseal()


async def test_a_stopped_vault_is_unavailable_and_a_delete_is_done_all_the_same(
    vault: OwnVault, service: Runtime
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored, doomed = await somebody.store(service, keys), await somebody.store(service, keys)
    vault.stop()
    try:
        with pytest.raises(VaultUnavailable) as failed:
            await somebody.opens(service, stored.id)
        assert type(failed.value) is VaultUnavailable
        assert failed.value.retry_after
        await service.writer.delete(somebody.access, doomed.id, if_match=None)
        assert await failing_checks(service) == {"vault", "transit", "installation"}
    finally:
        vault.start()
    assert await somebody.opens(service, stored.id) == keys
    await service.reconciler.run(apply=True)
    assert vault.ask("LIST", f"credentials/metadata/{somebody.account_id}/").json()["data"]["keys"] == [str(stored.id)]


async def test_nothing_that_was_stored_is_lost_when_vault_is_killed_and_started_again(
    vault: OwnVault, service: Runtime
) -> None:
    somebody, kept = Somebody(), list[tuple[UUID, Pair]]()
    failures, is_back, works_again = list[TemporarilyUnavailable](), asyncio.Event(), asyncio.Event()

    async def store_on_and_on() -> None:
        while not works_again.is_set():
            keys = pair_of_keys()
            try:
                kept.append(((await somebody.store(service, keys)).id, keys))
            except TemporarilyUnavailable as error:  # any other would fail the test
                failures.append(error)
                await asyncio.sleep(0.02)
            else:
                if is_back.is_set():
                    works_again.set()

    writers = [asyncio.create_task(store_on_and_on()) for _ in range(4)]
    await asyncio.sleep(0.3)
    vault.kill()
    await asyncio.sleep(0.3)
    vault.start()
    is_back.set()
    await asyncio.wait_for(asyncio.gather(*writers), 15)
    assert failures
    assert len(kept) > 4
    for credential_id, keys in kept:
        assert await somebody.opens(service, credential_id) == keys


async def test_a_right_taken_away_is_denied_after_one_login_and_works_again_when_it_is_given_back(
    vault: OwnVault, service: Runtime
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(service, keys)
    policy = f"sys/policies/acl/{NAMES.role}"
    before = vault.ask("GET", policy).json()["data"]["policy"]
    await asyncio.sleep(BELIEVED)
    logins = len(vault.audited(LOGIN))
    assert vault.ask("PUT", policy, {"policy": 'path "auth/token/*" { capabilities = ["update"] }'}).is_success
    try:
        for _ in range(5):
            with pytest.raises(VaultDenied):
                await somebody.opens(service, stored.id)
        # Nobody can tell a lost token from a missing right, so it is tried once; then the refusal is believed.
        assert len(vault.audited(LOGIN)) == logins + 1
    finally:
        vault.ask("PUT", policy, {"policy": before})
    assert await somebody.opens(service, stored.id) == keys


async def test_a_revoked_token_costs_one_login_however_many_callers_find_out(vault: OwnVault, service: Runtime) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(service, keys)
    await asyncio.sleep(BELIEVED)
    logins = len(vault.audited(LOGIN))
    accessors = vault.ask("LIST", "auth/token/accessors").json()["data"]["keys"]
    for accessor in accessors:
        found = vault.ask("POST", "auth/token/lookup-accessor", {"accessor": accessor}).json()["data"]
        if NAMES.role in found["policies"]:
            assert vault.ask("POST", "auth/token/revoke-accessor", {"accessor": accessor}).is_success
    opened = await asyncio.gather(*(somebody.opens(service, stored.id) for _ in range(32)))
    assert opened == [keys] * 32
    assert len(vault.audited(LOGIN)) == logins + 1


async def test_callers_that_come_before_the_first_login_share_it(vault: OwnVault) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    logins = len(vault.audited(LOGIN))
    async with Runtime.open(vault.settings()) as fresh:
        await asyncio.gather(*(somebody.store(fresh, keys) for _ in range(16)))
    assert len(vault.audited(LOGIN)) == logins + 1


async def test_vaults_rate_limit_says_when_to_come_again(vault: OwnVault) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    quota = "sys/quotas/rate-limit/test"
    async with Runtime.open(vault.settings(vault_retries=0)) as service:
        stored = await somebody.store(service, keys)
        assert vault.ask("POST", quota, {"rate": 1, "interval": "20s", "path": "transit/"}).is_success
        try:
            await somebody.opens(service, stored.id)
            with pytest.raises(VaultThrottled) as failed:
                await somebody.opens(service, stored.id)
            assert failed.value.retry_after is not None
            assert 1 <= failed.value.retry_after <= 20
        finally:
            vault.ask("DELETE", quota)
        assert await somebody.opens(service, stored.id) == keys
