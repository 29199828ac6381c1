"""`vault-credentials events verify`, as a process of its own: what it says, with whose logins, and its exit status."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.postgres.migrate import create_login
from tests.conftest import start_stack
from tests.sealed import Trail, trail
from tests.support import Stack
from tests.written import Connection


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("verify")) as started:
        yield started


@pytest.fixture
async def sealed(stack: Stack) -> AsyncIterator[Trail]:
    async with trail(stack) as made:
        await made.recorded_and_sealed(3, 4)
        yield made


async def verify(sealed: Trail, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command, with the service's own settings or others."""
    variables = {
        **os.environ,
        **sealed.stack.local.environment(),
        "DATABASE_URL": sealed.settings.database_url.get_secret_value(),
        **environment,
    }
    command = [sys.executable, "-m", "service.cli", "events", "verify", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, env=variables, capture_output=True, text=True, timeout=120, check=False
    )


async def test_it_says_that_all_is_in_order_and_which_seal_is_the_newest(sealed: Trail) -> None:
    done = await verify(sealed)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, third = done.stdout.splitlines()
    assert first == "7 events under 2 seals: as they were sealed"
    assert second == "every event is sealed"
    assert third.startswith("newest seal, of ")
    assert third.endswith(f": {await sealed.newest()}")


async def test_what_it_says_can_be_noted_and_expected_another_time(sealed: Trail) -> None:
    noted = (await verify(sealed)).stdout.split()[-1]
    assert (await verify(sealed, "--expect", noted)).returncode == 0
    other = noted[:-1] + ("0" if noted[-1] != "0" else "1")
    done = await verify(sealed, "--expect", other)
    assert done.returncode == 1
    assert "WRONG: seal 2: the seal is not the one expected: it was replaced" in done.stdout


async def test_what_is_wrong_is_told_with_its_seal_and_time_and_the_exit_status_is_1(sealed: Trail) -> None:
    await sealed.conn.execute("DELETE FROM credential_events WHERE id = 5")
    done = await verify(sealed)
    assert done.returncode == 1
    times = [
        row["sealed_at"].isoformat() for row in await sealed.conn.fetch("SELECT * FROM event_seals ORDER BY number")
    ]
    first, second, *_ = done.stdout.splitlines()
    told = f"WRONG: seal 2 (sealed {times[1]}, the one before {times[0]}): 1 event fewer than were sealed"
    assert (first, second) == (told, "6 events under 2 seals: 1 problem found")


async def test_what_is_not_sealed_yet_is_told_and_why(sealed: Trail) -> None:
    slow: Connection = await asyncpg.connect(sealed.owner_url)
    async with slow.transaction():
        await slow.execute("SELECT pg_current_xact_id()")
        await sealed.record(2)
        done = await verify(sealed)
    await slow.close()
    since = (await sealed.conn.fetchval("SELECT at FROM credential_events WHERE id = 8")).isoformat()
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:3] == [
        f"2 events not sealed yet, the first of {since}",
        f"  2 of them wait for a transaction that began before {since} to end",
    ]


async def test_as_json_it_tells_programs_the_same(sealed: Trail) -> None:
    await sealed.record(2)
    await sealed.conn.execute("DELETE FROM credential_events WHERE id = 5")
    done = await verify(sealed, "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 1
    assert (told["verified"], told["seals"], told["events"], told["problems"]) == (False, 2, 6, 1)
    assert told["newest_seal"] == told["anchored_seal"] == str(await sealed.newest())
    assert told["unsealed"]["events"] == 2
    assert [(each["seal"], each["problem"]) for each in told["findings"]] == [(2, "1 event fewer than were sealed")]


async def test_late_events_are_told_and_are_no_problem(sealed: Trail) -> None:
    await sealed.conn.execute(
        "INSERT INTO credential_events (at, acting_user, actor, action, outcome)"
        " VALUES (now() - interval '1 day', 'mallory', 'library', 'open', 'granted')"
    )
    assert await sealed.seal() == 1
    done = await verify(sealed)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].startswith(
        "1 event recorded late: older than the seal before theirs, the first under seal 3"
    )
    told = json.loads((await verify(sealed, "--json")).stdout)
    assert (told["verified"], told["late"]) == (True, {"events": 1, "first_seal": 3})


async def test_tables_that_are_not_as_a_migration_makes_them_are_told_and_nothing_else(sealed: Trail) -> None:
    await sealed.conn.execute("ALTER TABLE credential_events ENABLE ROW LEVEL SECURITY")
    done = await verify(sealed)
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (
        1,
        "",
        [
            "WRONG: the table 'credential_events' has row-level security: policies choose who is shown what",
            "no event was looked at: such tables could show anything",
        ],
    )
    told = json.loads((await verify(sealed, "--json")).stdout)
    assert (told["verified"], told["problems"], told["unsealed"]) == (False, 1, None)


async def test_an_auditors_own_logins_are_enough(sealed: Trail, tmp_path: Path) -> None:
    url = sealed.owner_url
    await create_login(url, name="some_auditor", password="test", member_of="credentials_auditor")
    body = {"policies": ["credentials-auditor"], "no_default_policy": True}
    made = sealed.stack.vault("POST", "auth/token/create-orphan", body).json()["auth"]["client_token"]
    token = tmp_path / "token"
    token.write_text(made)
    done = await verify(
        sealed,
        DATABASE_URL=url.replace(urlsplit(url).netloc.rpartition("@")[0], "some_auditor:test"),
        CREDENTIALS_VAULT_LOGIN="token_file",
        CREDENTIALS_VAULT_TOKEN_FILE=str(token),
        CREDENTIALS_VAULT_ROLE_ID="",
        CREDENTIALS_VAULT_SECRET_ID_FILE="",
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_before_anything_was_sealed_there_is_nothing_wrong_and_nothing_proved(stack: Stack) -> None:
    async with trail(stack) as empty:
        done = await verify(empty)
        assert (done.returncode, done.stdout.splitlines()[:2]) == (
            0,
            ["0 events under 0 seals: as they were sealed", "every event is sealed"],
        )


@pytest.mark.parametrize("mark", ["2", "2:abc", "x:" + "0" * 64, "0:" + "0" * 64])
async def test_a_mark_that_is_none_is_refused_and_not_repeated(sealed: Trail, mark: str) -> None:
    done = await verify(sealed, "--expect", mark)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "vault-credentials: --expect: must be a seal's number, a colon and its SHA-256 in hex"
    )


async def test_where_vault_does_not_answer_nothing_is_called_in_order(sealed: Trail) -> None:
    done = await verify(sealed, VAULT_ADDR="http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Vault could not be reached" in done.stderr
