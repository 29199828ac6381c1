"""Opening a credential leaves nothing of it in the process's memory."""

import asyncio
import base64
import secrets

import pytest

from service.composition import Runtime
from tests.support import Stack
from tests.written import Somebody
from tests.zeroing.conftest import Ledger, Way
from tests.zeroing.processes import Keys, pair, scan, target

PROCESSES = 10
"""Over each of http and TLS."""

_at_once = asyncio.Semaphore(2)


async def _look(way: Way, ledger: Ledger, runtime: Runtime, number: int) -> None:
    by = ("opener", "function")[number % 2]
    somebody, keys = Somebody(), pair(number)
    stored = await somebody.store(runtime, keys)
    what = f"decrypt over {way.name}"
    told = {"ids": [str(stored.id)], "user_id": somebody.user_id, "by": by}
    async with _at_once, target(way.environment, "opened", told) as process:
        await process.reached("inside")
        inside = ledger.note("inside the block", what, process.pid, keys, await scan(process.pid, keys))
        assert inside.windows > 0, "the scanner does not see what is there"
        process.go_on()
        await process.reached("after")
        after = ledger.note("after the block", what, process.pid, keys, await scan(process.pid, keys))
        assert after.windows == 0, f"{by}, lengths {len(keys[0])} and {len(keys[1])}: {after}"


async def test_after_the_block_nothing_is_left_in_fresh_processes_that_got_ciphertext_alone(
    way: Way, ledger: Ledger, runtime: Runtime
) -> None:
    numbers = range(PROCESSES) if way.name == "http" else range(PROCESSES, 2 * PROCESSES)
    await asyncio.gather(*(_look(way, ledger, runtime, number) for number in numbers))


@pytest.mark.parametrize("is_zeroing", [False, True], ids=["usual-environment", "zeroing-environment"])
async def test_the_control_that_decrypts_with_httpx_and_json_leaves_it(
    way: Way, ledger: Ledger, stack: Stack, is_zeroing: bool
) -> None:
    keys: Keys = pair(secrets.randbelow(18))
    context = base64.b64encode(secrets.token_bytes(32)).decode()
    plaintext = base64.b64encode("\n".join(keys).encode()).decode()
    sealed = stack.vault(
        "POST", "transit/encrypt/credentials-alpaca", {"plaintext": plaintext, "context": context}
    ).json()["data"]
    told = {"ciphertext": sealed["ciphertext"], "context": context, "token": stack.runtime_token()}
    arm = f"control{', freed memory zeroed' if is_zeroing else ''}"
    async with target(way.environment, "decrypt", told, module="tests.zeroing.control", by_exec=is_zeroing) as plain:
        await plain.reached("inside")
        plain.go_on()
        await plain.reached("after")
        found = ledger.note(arm, f"decrypt over {way.name}", plain.pid, keys, await scan(plain.pid, keys))
    # Zeroing what is freed is not enough by itself, nor promised to be: what it leaves is printed.
    assert found.windows > 0 or is_zeroing
