"""The full check of KV against the rows, and the `reconcile` command: they report, and remove nothing unasked."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest

from service.composition import Runtime
from tests.conftest import start_stack
from tests.support import Stack
from tests.written import Connection, Somebody, leave_an_intent, live_versions, pair_of_keys


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own: what others leave in the shared one would be found."""
    with start_stack(tmp_path_factory.mktemp("scan")) as started:
        yield started


# --- the full check ---------------------------------------------------------------------------------------------


async def test_the_scan_marks_broken_and_deletes_nothing_and_unmarks_when_the_ciphertext_is_back(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    stored = await somebody.store(runtime, keys)
    path, since = stored.reference.kv_path, "SELECT broken_since FROM credentials WHERE id = $1"
    assert stack.vault("POST", f"credentials/delete/{path}", {"versions": [1]}).is_success
    assert (await runtime.reconciler.scan(apply=False)).broken == [stored.id]
    assert await owner_conn.fetchval(since, stored.id) is None
    assert (await runtime.reconciler.scan(apply=True)).broken == [stored.id]
    marked = await owner_conn.fetchval(since, stored.id)
    assert marked is not None
    await runtime.reconciler.scan(apply=True)
    assert await owner_conn.fetchval(since, stored.id) == marked
    assert stack.vault("POST", f"credentials/undelete/{path}", {"versions": [1]}).is_success
    assert (await runtime.reconciler.scan(apply=True)).broken == []
    assert await owner_conn.fetchval(since, stored.id) is None
    assert await somebody.opens(runtime, stored.id) == keys


async def test_the_scan_reports_versions_that_nothing_accounts_for_and_leaves_them(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody = Somebody()
    stored = await somebody.store(runtime, pair_of_keys())
    accounted = await leave_an_intent(stack, owner_conn, somebody)
    stray, path = f"{uuid4()}/somebody-elses", stored.reference.kv_path
    for where, cas in ((path, 1), (stray, 0)):
        body = {"data": {"ciphertext": "vault:v1:AAAA"}, "options": {"cas": cas}}
        assert stack.vault("POST", f"credentials/data/{where}", body).is_success
    report = await runtime.reconciler.scan(apply=True)
    assert sorted(report.unaccounted) == sorted([f"{path}@2", f"{stray}@1"])
    assert live_versions(stack, path) == {1, 2}
    assert live_versions(stack, stray) == {1}
    assert live_versions(stack, accounted) == {1}
    for each in (path, stray):
        stack.vault("DELETE", f"credentials/metadata/{each}")
    await owner_conn.execute("DELETE FROM credentials WHERE id = $1", stored.id)
    await runtime.reconciler.run(apply=True)


# --- the command ------------------------------------------------------------------------------------------------


def reconcile(stack: Stack, *options: str) -> list[str]:
    """Runs the command with the stack's environment, on a narrow terminal's worth of columns. What it printed."""
    command = [sys.executable, "-m", "service.cli", "reconcile", *options]
    environment = {**stack.local.environment(), "COLUMNS": "40"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_the_command_is_a_dry_run_unless_told_to_apply(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody = Somebody()
    path = await leave_an_intent(stack, owner_conn, somebody)
    told = await asyncio.to_thread(reconcile, stack)
    assert told[:3] == ["dry run: nothing was changed", "due: 1", "removed: 0"]
    assert live_versions(stack, path) == {1}
    told = await asyncio.to_thread(reconcile, stack, "--apply")
    assert told[:3] == ["applied", "due: 1", "removed: 1"]
    assert not somebody.paths(stack)
    assert await somebody.intents(owner_conn) == 0


async def test_the_command_scans_when_told_to_and_has_a_line_for_each_that_it_finds(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody = Somebody()
    stored = await somebody.store(runtime, pair_of_keys())
    stack.vault("DELETE", f"credentials/metadata/{stored.reference.kv_path}")
    stray = f"{uuid4()}/{uuid4()}"
    stack.vault("POST", f"credentials/data/{stray}", {"data": {"ciphertext": "x"}, "options": {"cas": 0}})
    told = await asyncio.to_thread(reconcile, stack, "--scan")
    assert {"broken: 1", f"broken {stored.id}", "unaccounted: 1", f"unaccounted {stray}@1"} <= set(told)
    given = json.loads("\n".join(await asyncio.to_thread(reconcile, stack, "--scan", "--json")))
    assert (given["applied"], given["reconciliation"]["due"], given["skew"]) == (False, 0, None)
    assert given["scan"].pop("credentials") >= 1
    assert given["scan"] == {
        "broken": [str(stored.id)],
        "skewed": [str(stored.id)],
        "unaccounted": [f"{stray}@1"],
    }
    assert not any(line.startswith("credentials") for line in await asyncio.to_thread(reconcile, stack))
    stack.vault("DELETE", f"credentials/metadata/{stray}")
    await owner_conn.execute("DELETE FROM credentials WHERE id = $1", stored.id)
