"""`vault-credentials worker`, as a process: what it needs, what it does, how it ends.

On a stack of this module's own, as keys are rotated here.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.composition import Runtime
from service.modules.key_records import JobState
from tests.conftest import start_stack
from tests.rotating import (
    ask,
    assert_all_open,
    assert_moved,
    assert_reconciled,
    clear,
    job,
    newest_version,
    over,
    some_credentials,
)
from tests.support import Stack, canary
from tests.written import Connection

COMMAND = [sys.executable, "-m", "service.cli", "worker"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("worker")) as started:
        yield started


@pytest.fixture(autouse=True)
async def empty(stack: Stack, owner_conn: Connection) -> None:
    """Each test's credentials are its own."""
    await clear(stack, owner_conn)


def environment(stack: Stack, **more: str) -> dict[str, str]:
    """What a worker needs: where Vault is and what is mounted there, and its own logins."""
    names = (
        "VAULT_ADDR",
        "VAULT_NAMESPACE",
        "VAULT_CACERT",
        "CREDENTIALS_TRANSIT",
        "CREDENTIALS_KV",
        "CREDENTIALS_ROTATOR",
    )
    own = {name: value for name, value in stack.local.environment().items() if name.startswith(names)}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_CACHE_HOME") if name in os.environ}
    return {**kept, **own, "CREDENTIALS_JOB_POLL_SECONDS": "0.1", **more}


@contextmanager
def worker(stack: Stack, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker, killed at the end if it still runs."""
    with log.open("ab") as file, subprocess.Popen(COMMAND, env=environment(stack, **more), stderr=file) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_needs_only_its_own_logins_and_ends_in_order_after_the_batch_under_way(
    stack: Stack, runtime: Runtime, owner_conn: Connection, tmp_path: Path, number: signal.Signals
) -> None:
    kept = await some_credentials(runtime, 8, updated=2)
    with worker(stack, tmp_path / "log", CREDENTIALS_REWRAP_PER_SECOND="2") as process:
        await over(owner_conn, await ask(owner_conn, "rotate"))
        rewrap = await ask(owner_conn, "rewrap")
        while (await job(owner_conn, rewrap)).done == 0:
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(30) == 0
    assert (await job(owner_conn, rewrap)).state is JobState.RUNNING
    # Nothing was cut short: every intent is of what was pinned before.
    pinned_before = await owner_conn.fetchval(
        "SELECT count(*) FROM write_intents i JOIN credentials c ON c.id = i.credential_id"
        " WHERE i.kv_version >= c.kv_version"
    )
    assert pinned_before == 0
    with worker(stack, tmp_path / "log"):
        done = await over(owner_conn, rewrap)
    assert (done.state, done.done, done.failed) == (JobState.DONE, 8, 0)
    await assert_moved(stack, owner_conn, kept, newest_version(stack))
    await assert_all_open(runtime, kept)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["message"] for line in lines].count("waiting for jobs") == 2
    said = (tmp_path / "log").read_text()
    assert stack.local.rotator_database_url not in said
    assert stack.local.rotator_secret_id_file.read_text() not in said


async def test_workers_that_are_killed_in_the_middle_of_a_rewrap_lose_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection, tmp_path: Path
) -> None:
    kept = await some_credentials(runtime, 30, updated=5)
    quick = {"CREDENTIALS_REWRAP_BATCH": "2"}
    with worker(stack, tmp_path / "log", **quick) as first, worker(stack, tmp_path / "log", **quick) as second:
        await over(owner_conn, await ask(owner_conn, "rotate"))
        rewrap = await ask(owner_conn, "rewrap")
        while (await job(owner_conn, rewrap)).done == 0:
            assert first.poll() is None
            assert second.poll() is None
        first.kill()
        second.kill()
    assert (await job(owner_conn, rewrap)).state is JobState.RUNNING
    await assert_all_open(runtime, kept)
    with worker(stack, tmp_path / "log"):
        done = await over(owner_conn, rewrap)
    assert (done.state, done.done, done.failed) == (JobState.DONE, 30, 0)
    await assert_moved(stack, owner_conn, kept, newest_version(stack))
    await assert_reconciled(stack, runtime, owner_conn)
    await assert_all_open(runtime, kept)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("CREDENTIALS_ROTATOR_DATABASE_URL", "CREDENTIALS_ROTATOR_DATABASE_URL"),
        ("CREDENTIALS_ROTATOR_VAULT_ROLE_ID", "CREDENTIALS_ROTATOR_VAULT_ROLE_ID"),
        ("CREDENTIALS_ROTATOR_VAULT_SECRET_ID_FILE", "CREDENTIALS_ROTATOR_VAULT_SECRET_ID_FILE"),
        ("VAULT_ADDR", "VAULT_ADDR"),
    ],
)
def test_a_worker_without_a_login_says_which_setting_is_missing(stack: Stack, missing: str, named: str) -> None:
    given = environment(stack)
    del given[missing]
    ended = subprocess.run(COMMAND, env=given, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert named in ended.stderr
    assert stack.local.rotator_database_url not in ended.stderr


def test_a_worker_takes_its_database_from_a_file_and_needs_no_other(stack: Stack, tmp_path: Path) -> None:
    given = environment(stack)
    given.pop("DATABASE_URL", None)
    (tmp_path / "CREDENTIALS_ROTATOR_DATABASE_URL").write_text(given.pop("CREDENTIALS_ROTATOR_DATABASE_URL"))
    del given["CREDENTIALS_ROTATOR_VAULT_ROLE_ID"]  # so that it ends: this is what it then lacks
    given["CREDENTIALS_SETTINGS_DIR"] = str(tmp_path)
    ended = subprocess.run(COMMAND, env=given, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "CREDENTIALS_ROTATOR_VAULT_ROLE_ID: is not set" in ended.stderr


def test_a_worker_that_vault_does_not_let_in_ends_and_does_not_seem_to_work(stack: Stack, tmp_path: Path) -> None:
    wrong = tmp_path / "secret-id"
    wrong.write_text(canary())
    given = environment(stack, CREDENTIALS_ROTATOR_VAULT_SECRET_ID_FILE=str(wrong))
    ended = subprocess.run(COMMAND, env=given, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "could not log in to Vault" in ended.stderr
    assert "waiting for jobs" not in ended.stderr + ended.stdout
    assert wrong.read_text() not in ended.stderr + ended.stdout
