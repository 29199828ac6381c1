"""Imports that are killed at any point: what comes after finishes what was half done, and does nothing twice."""

import multiprocessing
import signal
from collections.abc import AsyncIterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from service.composition import Runtime
from service.postgres.fernet_table import FernetTable
from tests import import_process
from tests.importing import Legacy, import_file, json_lines_file
from tests.integration.test_import_fernet import KEY, fernet_table, fill, import_table, kept
from tests.stored import opened, some_user
from tests.support import Stack
from tests.written import Connection, assert_agree

PLACES = [
    ("look", 1),
    ("encrypt", 1),
    ("intents", 1),
    ("write", 1),
    ("write", 3),
    ("annotate", 2),
    ("insert", 1),
    ("authorise", 1),
    ("read", 2),
    ("decrypt", 1),
]
ROWS = 4


@pytest.fixture
async def old_table(owner_conn: Connection) -> AsyncIterator[FernetTable]:
    async with fernet_table(owner_conn) as made:
        yield made


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have imported everything before they start, so that each test takes little."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.import_process"])
    return context


def killed(processes: ForkServerContext, *arguments: object) -> bool:
    """Whether the import died at the step."""
    process = processes.Process(target=import_process.run, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode == -signal.SIGKILL


async def settle(runtime: Runtime, conn: Connection, rows: list[Legacy]) -> None:
    """As if the time that a write may take had passed: what is left over is found and removed."""
    due = "UPDATE write_intents SET due_at = now() - interval '1 second' WHERE credential_id = ANY($1)"
    await conn.execute(due, [row.uuid for row in rows])
    await runtime.reconciler.run(apply=True)


@pytest.mark.parametrize(
    ("place", "reconciled"),
    [
        *((place, False) for place in PLACES),
        *((place, True) for place in PLACES if place[0] in ("write", "insert")),  # what there is to reconcile
    ],
    ids=lambda value: f"{value[0]}-{value[1]}" if isinstance(value, tuple) else "reconciled" if value else "left",
)
async def test_one_that_is_killed_is_gone_on_with(
    stack: Stack,
    runtime: Runtime,
    owner_conn: Connection,
    processes: ForkServerContext,
    tmp_path: Path,
    place: tuple[str, int],
    reconciled: bool,
) -> None:
    user = some_user()
    rows = [Legacy(user) for _ in range(ROWS)]
    path = json_lines_file(tmp_path, rows)
    assert killed(processes, stack.settings(), path, place)
    if reconciled:
        await settle(runtime, owner_conn, rows)
    report, results = await import_file(runtime, path)
    assert report.is_complete, results
    assert report.rows == ROWS
    await settle(runtime, owner_conn, rows)
    stored = "SELECT credential_id FROM credential_events WHERE user_id = $1 AND action = 'store'"
    events = [row["credential_id"] for row in await owner_conn.fetch(stored, user)]
    assert sorted(events) == sorted(row.uuid for row in rows)
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE user_id = $1", user) == ROWS
    for row in rows:
        assert await opened(runtime, row.uuid, user) == (row.api_key, row.secret_key)
        await assert_agree(stack, owner_conn, row.uuid)


@pytest.mark.parametrize("place", [("wipe", 1), ("decrypt", 1)], ids=["wipe", "decrypt"])
async def test_a_table_whose_import_is_killed_loses_no_row_that_is_not_here(
    stack: Stack,
    runtime: Runtime,
    owner_conn: Connection,
    processes: ForkServerContext,
    old_table: FernetTable,
    place: tuple[str, int],
) -> None:
    rows = [Legacy() for _ in range(ROWS)]
    await fill(owner_conn, old_table, rows)
    assert killed(processes, stack.settings(), (stack.owner_url, KEY, old_table), place)
    for row in rows:
        if not (await kept(owner_conn, old_table))[str(row.id)]:
            assert await opened(runtime, row.uuid, row.user_id) == (row.api_key, row.secret_key)
    report, results = await import_table(stack, runtime, old_table, wipes=True)
    assert report.is_complete, results
    assert not any((await kept(owner_conn, old_table)).values())
    for row in rows:
        assert await opened(runtime, row.uuid, row.user_id) == (row.api_key, row.secret_key)
