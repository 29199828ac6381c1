"""The library in processes of their own: by the environment alone, closed cleanly, in one event loop after another."""

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from service.composition import Runtime, close_process_runtime, configure, process_runtime
from service.errors import ConfigurationError
from service.modules.credential_service import get_decrypted_alpaca_credential
from tests.stored import Stored, store
from tests.support import Stack
from tests.written import Connection

ROOT = Path(__file__).parents[2]
OPEN = """
    import asyncio, os, sys
    import asyncpg
    from service.modules.credential_service import get_decrypted_alpaca_credential

    async def main():
        conn = await asyncpg.connect(os.environ["DATABASE_URL"])
        async with get_decrypted_alpaca_credential(conn, sys.argv[1], sys.argv[2]) as (api_key, secret_key):
            print(len(api_key), len(secret_key), repr(api_key))
        await conn.close()

"""


def run(
    program: str, *arguments: str, environment: dict[str, str], folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Runs a program with these variables and no others, in development mode, every warning an error."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program), *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def complaints(ran: subprocess.CompletedProcess[str]) -> list[str]:
    """What it wrote to stderr, but for asyncio's remarks that a step took long."""
    return [line for line in ran.stderr.splitlines() if not line.startswith("Executing <")]


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Nothing configured by other tests, nor by this one for others."""
    configure(None)
    yield
    configure(None)


@pytest.fixture
async def stored(runtime: Runtime) -> Stored:
    return await store(runtime)


async def connections(conn: Connection, at_most: int = 0) -> int:
    """How many the service's processes have; waits a little, as Postgres notices later that a client has gone."""
    count = 0
    for _ in range(50):
        count = await conn.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'vault-credentials'"
        )
        if count <= at_most:
            break
        await asyncio.sleep(0.1)
    return count


@pytest.mark.parametrize(
    "ending",
    [
        "asyncio.run(main())",
        "for _ in range(3):\n        asyncio.run(main())",
        """
    from service.composition import close_process_runtime

    async def closing():
        await main()
        await close_process_runtime()
        await main()  # opened again
        await close_process_runtime()

    asyncio.run(closing())
        """,
    ],
    ids=["asyncio.run-closes-it", "one-loop-after-another", "closed-explicitly"],
)
async def test_a_process_with_the_environment_alone_opens_and_leaves_nothing_open(
    stack: Stack, stored: Stored, owner_conn: Connection, ending: str
) -> None:
    before = await connections(owner_conn, at_most=1000)
    tokens = len(stack.vault("LIST", "auth/token/accessors").json()["data"]["keys"])
    ran = run(OPEN + "    " + ending.strip(), str(stored.id), stored.user_id, environment=stack.local.environment())
    assert (ran.returncode, complaints(ran)) == (0, [])
    assert set(ran.stdout.splitlines()) == {f"{len(stored.api_key)} {len(stored.secret_key)} '**********'"}
    assert await connections(owner_conn, at_most=before) <= before
    assert len(stack.vault("LIST", "auth/token/accessors").json()["data"]["keys"]) <= tokens, "a Vault token was left"


async def test_it_works_from_within_the_services_folder_by_the_seeds_names(stack: Stack, stored: Stored) -> None:
    program = OPEN.replace("service.modules", "modules") + "    asyncio.run(main())"
    environment = stack.local.environment()
    ran = run(program, str(stored.id), stored.user_id, environment=environment, folder=ROOT / "service")
    assert (ran.returncode, complaints(ran)) == (0, [])


async def test_a_process_that_ends_by_an_exception_closes_it_too(stack: Stack, stored: Stored) -> None:
    program = OPEN.replace("print(", "raise SystemExit(7) or print(") + "    asyncio.run(main())"
    ran = run(program, str(stored.id), stored.user_id, environment=stack.local.environment())
    assert ran.returncode == 7
    for key in stored.keys:
        assert key not in ran.stderr


def test_a_process_without_the_environment_is_told_which_settings_are_missing() -> None:
    program = """
        import asyncio
        from service.errors import ConfigurationError
        from service.modules.credential_service import get_decrypted_alpaca_credential

        async def main():
            try:
                async with get_decrypted_alpaca_credential(None, "x", "alice"):
                    pass
            except ConfigurationError as error:
                print(error)

        asyncio.run(main())
    """
    ran = run(program, environment={})
    assert ran.stdout == "settings: DATABASE_URL: is not set; VAULT_ADDR: is not set\n", ran.stderr


async def test_missing_settings_are_asked_for_again_at_the_next_use(stack: Stack, unconfigured: None) -> None:
    with pytest.raises(ConfigurationError):
        await process_runtime()
    configure(stack.settings())
    await process_runtime()
    await close_process_runtime()


async def test_a_second_event_loop_in_the_same_process_has_a_runtime_of_its_own(
    stack: Stack, stored: Stored, unconfigured: None
) -> None:
    configure(stack.settings())
    ours = await process_runtime()
    seen: list[object] = []

    async def elsewhere() -> None:
        conn = await asyncpg.connect(stack.runtime_url)
        async with get_decrypted_alpaca_credential(conn, str(stored.id), stored.user_id) as keys:
            seen.append(tuple(str(key) for key in keys))
        await conn.close()
        seen.append(await process_runtime())

    await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    assert seen[0] == stored.keys
    assert seen[1] is not ours
    assert await process_runtime() is ours
    await close_process_runtime()


async def test_concurrent_first_uses_open_one_runtime(stack: Stack, unconfigured: None) -> None:
    configure(stack.settings())
    opened = await asyncio.gather(*(process_runtime() for _ in range(20)))
    assert len({id(each) for each in opened}) == 1
    await close_process_runtime()


async def test_a_cancelled_first_use_does_not_spoil_the_next(stack: Stack, unconfigured: None) -> None:
    configure(stack.settings())
    task = asyncio.create_task(process_runtime())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await process_runtime()
    await close_process_runtime()
    await close_process_runtime()  # a second time is fine
