"""The example orchestrator, as a program on a real service: it trades, goes on with changed keys, and is cut off."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
from pydantic import SecretStr

from service.localstack.state_dir import free_port
from tests.handed import client_for, stored_by
from tests.support import Stack, canary, serving
from tests.written import Somebody

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
NOBODYS = "0b7a6c0e-41c5-4f0b-9d36-0f1d2c3b4a59"


@asynccontextmanager
async def running(*arguments: str, **variables: str) -> AsyncIterator[Process]:
    """One of the examples, as long as the block lasts."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT / "examples", env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line_of(process: Process, *beginnings: str) -> str:
    """The next line that begins so."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stdout.readline()).decode():
            if line.startswith(beginnings):
                return line.strip()
    raise AssertionError(f"it ended without a line that begins with {beginnings}")


async def test_it_trades_goes_on_with_changed_keys_and_is_cut_off_by_a_suspension(stack: Stack, tmp_path: Path) -> None:
    somebody, first, second = Somebody(), (canary("PK1"), canary("SK1")), (canary("PK2"), canary("SK2"))
    token_file = tmp_path / "token"
    token_file.write_text(stack.mint("orchestrator", "example"))
    async with running("stand_in_alpaca.py", "--port", "0") as stand_in:
        alpaca = (await line_of(stand_in, "a stand-in Alpaca")).rpartition(" ")[2]
        with serving(stack.settings(alpaca_base_url=alpaca)) as service:
            async with (
                client_for(service, stack) as client,
                httpx.AsyncClient(base_url=alpaca, timeout=30) as owner,
                httpx.AsyncClient(base_url=service, timeout=30) as operator,
            ):

                async def regenerate(keys: tuple[str, str]) -> None:
                    answer = await owner.post("/stand-in/keys", json={"api_key": keys[0], "secret_key": keys[1]})
                    assert answer.status_code == 200

                await regenerate(first)
                made, _ = await stored_by(client, somebody, first)
                variables = {
                    "SERVICE_URL": service,
                    "ALPACA_BASE_URL": alpaca,
                    "TOKEN_COMMAND": f"cat {token_file}",
                }
                arguments = ("orchestrator.py", made.id, somebody.user_id, "MSFT", "--pause", "0.01")
                async with running(*arguments, **variables) as example:
                    assert "bought 1 MSFT through the proxy: order " in await line_of(example, "bought")
                    read = await line_of(example, "account")
                    assert read.startswith("account PA3STANDIN01 has 99589.50 USD")
                    await line_of(stand_in, f"POST /v2/orders by {first[0][:8]}: 200")
                    await line_of(stand_in, f"GET /v2/account by {first[0][:8]}: 200")

                    await regenerate(second)
                    await line_of(example, "Alpaca refuses")
                    await client.update(
                        made.id,
                        api_key=SecretStr(second[0]),
                        secret_key=SecretStr(second[1]),
                        user_id=somebody.user_id,
                    )
                    await line_of(stand_in, f"POST /v2/orders by {second[0][:8]}: 200")
                    await line_of(stand_in, f"GET /v2/account by {second[0][:8]}: 200")

                    headers = {"Authorization": f"Bearer {stack.mint('operator', 'olga')}"}
                    answer = await operator.post(f"/v1/users/{somebody.user_id}/suspension", headers=headers)
                    assert answer.is_success, answer.text
                    async with asyncio.timeout(PATIENCE):
                        _, complaint = await example.communicate()
                    assert complaint.decode() == (
                        "cut off: The user or the account is suspended: nobody may use its credentials.\n"
                    )
                    assert example.returncode == 3


async def test_what_it_may_not_have_ends_it(stack: Stack, server: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(stack.mint("orchestrator", "example"))
    variables = {"SERVICE_URL": server, "TOKEN_COMMAND": f"cat {tmp_path / 'token'}"}
    async with running("orchestrator.py", NOBODYS, "nobody", **variables) as example, asyncio.timeout(PATIENCE):
        _, complaint = await example.communicate()
    assert complaint.decode() == "can't go on: No such credential for this user.\n"
    assert example.returncode == 1


async def test_while_the_service_is_away_it_goes_on_for_its_rounds() -> None:
    variables = {"SERVICE_URL": f"http://127.0.0.1:{free_port()}", "TOKEN_COMMAND": "echo token"}
    arguments = ("orchestrator.py", NOBODYS, "nobody", "--rounds", "2", "--pause", "0")
    async with running(*arguments, **variables) as example, asyncio.timeout(PATIENCE):
        told, complaint = await example.communicate()
    assert (
        told.decode().splitlines() == ["not now: The service does not answer; nothing was changed by this request."] * 2
    )
    assert (complaint, example.returncode) == (b"", 0)


async def test_without_a_token_it_says_so() -> None:
    async with running("orchestrator.py", NOBODYS, "nobody", TOKEN_COMMAND="false") as example:
        async with asyncio.timeout(PATIENCE):
            _, complaint = await example.communicate()
    assert complaint.decode() == "no token: TOKEN_COMMAND failed\n"
    assert example.returncode == 1
