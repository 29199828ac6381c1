"""Handing off: the plaintext is never in the service's memory; the token, worth it, is gone after the answer."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest

from service.composition import Runtime
from tests.doubles.before_vault import BeforeVault
from tests.handing_off import pair_in, unwrapped
from tests.support import Stack
from tests.written import Somebody
from tests.zeroing.conftest import Ledger, Way
from tests.zeroing.processes import Service, environment_without, pair, scan, service
from tests.zeroing.rest import Bearer

PATHS = "/v1/credentials"
TRIES = 5
"""Fresh processes, at most, for what is to be found where a protection is missing."""


def random_parts(token: str) -> list[str]:
    """What no other token has: Vault's own, for the service's login, begins alike and is long in the middle."""
    assert token.startswith("hvs.CAES")
    assert len(token) > 90
    return [token[12:44], token[-24:]]


async def _asked(client: httpx.AsyncClient, credential_id: object) -> httpx.Response:
    return await client.post(f"{PATHS}/{credential_id}/handoff")


def robot_for(bearer: Bearer, somebody: Somebody) -> dict[str, str]:
    return {**bearer("orchestrator", "robot"), "X-User-Id": somebody.user_id}


async def test_the_plaintext_is_never_there_and_the_token_is_gone_after_the_answer(
    way: Way, ledger: Ledger, runtime: Runtime, bearer: Bearer, stack: Stack
) -> None:
    keys, somebody = pair(7 if way.name == "TLS" else 0), Somebody()
    made = await somebody.store(runtime, keys)
    what = f"handoff over {way.name}"
    # A scan takes its time, while Vault's answer is held.
    environment = {**way.environment, "CREDENTIALS_VAULT_TIMEOUT": "60"}
    async with service(environment) as served, served.client(robot_for(bearer, somebody)) as client:
        assert (await client.get(PATHS)).is_success
        # Half of Vault's answer is there.
        async with way.vault.holding("/transit/decrypt/", passed=250):
            answering = asyncio.ensure_future(_asked(client, made.id))
            await way.vault.held()
            inside = ledger.note("during a hand-off: the keys", what, served.pid, keys, await scan(served.pid, keys))
            assert inside.windows == 0
        answer = await answering
        assert answer.status_code == 200
        token = answer.json()["wrapping_token"]
        await ledger.gone("after a hand-off: the keys", what, served.pid, keys)
        await ledger.gone("after a hand-off: the token", what, served.pid, random_parts(token))
    assert pair_in(unwrapped(stack, token)) == "\n".join(keys)


async def test_without_zero_on_free_the_token_stays(
    ways: dict[str, Way], ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    """The scanner sees what it looks for."""
    for _ in range(TRIES):
        keys, somebody = pair(3), Somebody()
        made = await somebody.store(runtime, keys)
        environment = environment_without(ways["http"].environment, "LD_PRELOAD")
        async with AsyncExitStack() as opened:
            served = await opened.enter_async_context(service(environment, module="tests.zeroing.served"))
            client = await opened.enter_async_context(served.client(robot_for(bearer, somebody)))
            token = (await _asked(client, made.id)).json()["wrapping_token"]
            found = await scan(served.pid, random_parts(token))
            ledger.note("without", "LD_PRELOAD: handoff's token over http", served.pid, random_parts(token), found)
        if found.windows:
            return
    pytest.fail("nothing was found: does the search find tokens?")


async def test_a_plaintext_that_was_not_wrapped_after_all_is_gone_too(
    stack: Stack, ways: dict[str, Way], ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    keys, somebody = pair(5), Somebody()
    made = await somebody.store(runtime, keys)
    async with BeforeVault(stack.vault_addr) as vault:
        vault.dropped = "X-Vault-Wrap-TTL"
        environment = {**ways["http"].environment, "VAULT_ADDR": vault.url}

        async def refused(served: Service) -> None:
            async with served.client(robot_for(bearer, somebody)) as client:
                assert (await client.get(PATHS)).is_success
                assert (await _asked(client, made.id)).status_code == 503

        what = "handoff that came unwrapped, over http"
        async with service(environment) as served:
            await refused(served)
            await ledger.gone("after the answer", what, served.pid, keys)
        patch = "wiping the wire's buffer"
        unwiped = environment_without(environment)
        async with service(unwiped, module="tests.zeroing.served", without=[patch]) as served:
            await refused(served)
            found = ledger.note("without", f"{patch}: {what}", served.pid, keys, await scan(served.pid, keys))
            assert found.windows > 0
