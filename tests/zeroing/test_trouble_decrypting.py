"""Nothing is left of a credential, either, when opening it fails, is given up, or its block raises."""

import base64
from collections.abc import Sequence

import asyncpg
import pytest

from service.composition import Runtime
from service.modules.derivation_context import context_of
from tests.stored import kv_rewrite
from tests.support import Stack
from tests.written import Somebody
from tests.zeroing.conftest import Ledger, Way
from tests.zeroing.processes import Target, pair, scan, target

_HALF = 400
"""Bytes of an answer to a decryption that end in the middle of the plaintext."""


@pytest.fixture
def way(ways: dict[str, Way]) -> Way:
    """Trouble is the same over both."""
    return ways["http"]


async def _assert_zero(ledger: Ledger, what: str, process: Target, keys: Sequence[str]) -> None:
    """At once: the process has not so much as run its event loop since."""
    found = ledger.note(f"after {what}", "decrypt", process.pid, keys, await scan(process.pid, keys))
    assert found.windows == 0, found


async def test_an_exception_inside_the_block_leaves_nothing(way: Way, ledger: Ledger, runtime: Runtime) -> None:
    somebody, keys = Somebody(), pair(1)
    stored = await somebody.store(runtime, keys)
    told = {"ids": [str(stored.id)], "user_id": somebody.user_id, "by": "function"}
    async with target(way.environment, "broken", told) as process:
        await process.reached("inside")
        assert (await scan(process.pid, keys)).windows > 0
        process.go_on()
        await process.reached("after")
        await _assert_zero(ledger, "an exception in the block", process, keys)


async def test_a_batch_of_which_one_is_rejected_leaves_nothing(
    way: Way, ledger: Ledger, runtime: Runtime, stack: Stack
) -> None:
    somebody, pairs = Somebody(), [pair(number) for number in range(5)]
    stored = [await somebody.store(runtime, each) for each in pairs]
    spoiled = stored[2].reference.kv_path
    sealed = stack.vault("GET", f"credentials/data/{spoiled}").json()["data"]["data"]["ciphertext"]
    kv_rewrite(stack, spoiled, [sealed[:-8] + "AAAAAAA="])
    keys = tuple(key for each in pairs for key in each)
    told = {"ids": [str(each.id) for each in stored], "user_id": somebody.user_id, "by": "opener"}
    async with target(way.environment, "together", told) as process:
        await process.reached("inside")
        assert (await scan(process.pid, pairs[1])).windows > 0
        assert (await scan(process.pid, pairs[2])).windows == 0
        process.go_on()
        await process.reached("after")
        await _assert_zero(ledger, "a batch with a rejected one", process, keys)


async def test_a_plaintext_that_is_no_pair_leaves_nothing(
    way: Way, ledger: Ledger, runtime: Runtime, stack: Stack
) -> None:
    somebody, keys = Somebody(), pair(3)
    stored = await somebody.store(runtime, keys)
    context = context_of(stored, stored.reference, user_id=somebody.user_id)
    body = {"plaintext": _base64("".join(keys).encode()), "context": _base64(context)}
    sealed = stack.vault("POST", f"transit/encrypt/{stored.reference.transit_key}", body).json()["data"]["ciphertext"]
    kv_rewrite(stack, stored.reference.kv_path, [sealed])
    told = {"ids": [str(stored.id)], "user_id": somebody.user_id, "by": "opener"}
    async with target(way.environment, "refused", told) as process:
        await process.reached("after")
        await _assert_zero(ledger, "a plaintext that is no pair", process, keys)


@pytest.mark.parametrize("passed", [0, _HALF], ids=["before-the-answer", "in-the-middle-of-the-answer"])
async def test_a_time_out_of_vault_leaves_nothing_and_late_bytes_land_nowhere(
    way: Way, ledger: Ledger, runtime: Runtime, passed: int
) -> None:
    somebody, keys = Somebody(), pair(4)
    stored = await somebody.store(runtime, keys)
    environment = {**way.environment, "CREDENTIALS_VAULT_TIMEOUT": "1", "CREDENTIALS_VAULT_RETRIES": "0"}
    told = {"ids": [str(stored.id)], "user_id": somebody.user_id, "by": "opener"}
    async with target(environment, "refused", told) as process:
        async with way.vault.holding("/transit/decrypt/", passed=passed):
            await way.vault.held()
            if passed:
                assert (await scan(process.pid, keys)).windows > 0, "no part of the plaintext has arrived"
            await process.reached("after")
            await _assert_zero(ledger, "a time-out of Vault", process, keys)
        process.go_on()
        await process.reached("at rest")
        await _assert_zero(ledger, "a time-out of Vault", process, keys)


@pytest.mark.parametrize(
    ("phrase", "passed"),
    [("/v1/credentials/data/", 0), ("/transit/decrypt/", 0), ("/transit/decrypt/", _HALF)],
    ids=["while-the-ciphertext-is-read", "before-the-plaintext", "in-the-middle-of-the-plaintext"],
)
async def test_a_cancelled_open_leaves_nothing(
    way: Way, ledger: Ledger, runtime: Runtime, phrase: str, passed: int
) -> None:
    somebody, keys = Somebody(), pair(5)
    stored = await somebody.store(runtime, keys)
    told = {"ids": [str(stored.id)], "user_id": somebody.user_id, "by": "opener"}
    async with target(way.environment, "cancelled", told) as process:
        async with way.vault.holding(phrase, passed=passed):
            await process.reached("under way")
            await way.vault.held()
            if passed:
                assert (await scan(process.pid, keys)).windows > 0, "no part of the plaintext has arrived"
            process.go_on()
            await process.reached("after")
            process.go_on()
            await process.reached("at rest")
        # The batch goes on without its caller until Vault has answered: what it brings is nobody's.
        process.go_on()
        await process.reached("at rest again")
        await ledger.gone("after a cancelled open", "decrypt", process.pid, keys)


async def test_a_denied_open_never_had_anything(
    way: Way, ledger: Ledger, runtime: Runtime, owner_conn: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    somebody, keys = Somebody(), pair(6)
    stored = await somebody.store(runtime, keys)
    await somebody.update(runtime, stored.id, is_active=False)
    told = {"ids": [str(stored.id)], "user_id": somebody.user_id, "by": "function"}
    async with target(way.environment, "refused", told) as process:
        await process.reached("after")
        await _assert_zero(ledger, "a denied open", process, keys)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
