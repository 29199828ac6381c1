"""A worker that dies between any two steps of a job loses nothing: another one goes on with it.

Each test kills a process at one step of one job, and lets another worker end it, on real servers. `STEPS` is compared
with a run that isn't killed, so a step that is added to a job is not forgotten here.
"""

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from service.composition import Runtime
from service.modules.key_records import JobState
from tests import rotation_process
from tests.conftest import start_stack
from tests.rotating import (
    ask,
    assert_all_open,
    assert_moved,
    assert_reconciled,
    clear,
    do,
    finish,
    newest_version,
    rotator_of,
    rows,
    some_credentials,
)
from tests.support import Stack
from tests.written import Connection

_BEGIN = ["store.next_job", "store.installation_id", "ciphertexts.installation_id"]
STEPS = {
    "rotate": [
        *_BEGIN, "store.job", "keys.describe", "store.note_versions", "store.note_start", "keys.rotate",
        "keys.describe", "store.note_versions", "store.end",
    ],
    "retire": [
        *_BEGIN, "store.job", "keys.describe", "store.note_versions",
        # Whether Vault and Postgres are of the same moment.
        "ciphertexts.installation_id", "keys.describe", "keys.describe", "ciphertexts.describe", "store.raise_floor",
        "keys.set_min_decryption_version", "store.end",
    ],
    "rewrap": [
        *_BEGIN, "keys.describe", "store.note_versions", "store.note_start",
        # One credential with a kept secret.
        "ciphertexts.read", "ciphertexts.read", "keys.rewrap", "batch.begin", "ciphertexts.write", "ciphertexts.write",
        "ciphertexts.annotate", "batch.finish",
        "store.remaining", "store.job", "store.end",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("crashes")) as started:
        yield started


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have imported everything before they start, so that each test takes little."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.rotation_process"])
    return context


@pytest.fixture(autouse=True)
async def empty(stack: Stack, owner_conn: Connection) -> None:
    """Each test's credentials are its own."""
    await clear(stack, owner_conn)


class Worker:
    """A process that has one turn."""

    def __init__(self, stack: Stack, processes: ForkServerContext, folder: Path) -> None:
        self._settings = stack.settings()
        self._processes = processes
        self._steps_file = folder / "steps"

    def run(self, dies_after: int | None = None) -> int | None:
        """Its exit code."""
        arguments = (self._settings, 1, dies_after, self._steps_file)
        process = self._processes.Process(target=rotation_process.run, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode is not None, "the process hangs"
        return process.exitcode

    @property
    def steps(self) -> list[str]:
        return self._steps_file.read_text().split()


@pytest.fixture
def worker(stack: Stack, processes: ForkServerContext, tmp_path: Path) -> Worker:
    return Worker(stack, processes, tmp_path)


def crashes(kind: str) -> pytest.MarkDecorator:
    """Every place to die: before the first step, and after each."""
    places = [pytest.param(number, id=f"after-{step}") for number, step in enumerate(["nothing", *STEPS[kind]])]
    return pytest.mark.parametrize("died_after", places)


@pytest.mark.parametrize("kind", STEPS)
async def test_crashes_are_tested_at_every_step_that_there_is(
    stack: Stack, runtime: Runtime, owner_conn: Connection, worker: Worker, kind: str
) -> None:
    await some_credentials(runtime, 1, updated=1)
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
        if kind == "retire":
            await do(rotator, owner_conn, "rewrap")
    await ask(owner_conn, kind, below=newest_version(stack) if kind == "retire" else None)
    assert worker.run() == 0
    assert worker.steps == STEPS[kind]


@crashes("rotate")
async def test_a_worker_that_dies_in_a_rotation_leaves_one_new_version_to_be_made_or_to_be_found(
    stack: Stack, owner_conn: Connection, worker: Worker, died_after: int
) -> None:
    before = newest_version(stack)
    asked = await ask(owner_conn, "rotate")
    assert worker.run(died_after) == -signal.SIGKILL
    async with rotator_of(stack.settings()) as rotator:
        done = await finish(rotator, owner_conn, asked)
    assert (done.state, done.to_version) == (JobState.DONE, before + 1)
    assert newest_version(stack) == before + 1


@crashes("retire")
async def test_a_worker_that_dies_in_a_retirement_leaves_it_to_be_completed(
    stack: Stack, runtime: Runtime, owner_conn: Connection, worker: Worker, died_after: int
) -> None:
    kept = await some_credentials(runtime, 1, updated=1)
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
        await do(rotator, owner_conn, "rewrap")
        version = newest_version(stack)
        asked = await ask(owner_conn, "retire", below=version)
        assert worker.run(died_after) == -signal.SIGKILL
        await assert_all_open(runtime, kept)
        done = await finish(rotator, owner_conn, asked)
    assert done.state is JobState.DONE
    assert stack.vault("GET", f"transit/keys/{done.transit_key}").json()["data"]["min_decryption_version"] == version
    await assert_all_open(runtime, kept)


@crashes("rewrap")
async def test_invariant_6_a_worker_that_dies_in_a_rewrap_leaves_the_old_or_the_new_ciphertext_pinned(
    stack: Stack, runtime: Runtime, owner_conn: Connection, worker: Worker, died_after: int
) -> None:
    kept = await some_credentials(runtime, 1, updated=1)
    before = await rows(owner_conn, kept)
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
        asked = await ask(owner_conn, "rewrap")
        assert worker.run(died_after) == -signal.SIGKILL
        await assert_all_open(runtime, kept)
        if died_after % 2:  # before it goes on, and after
            await assert_reconciled(stack, runtime, owner_conn)
            await assert_all_open(runtime, kept)
        done = await finish(rotator, owner_conn, asked)
    assert (done.state, done.done, done.failed) == (JobState.DONE, 1, 0)
    await assert_moved(stack, owner_conn, kept, newest_version(stack))
    await assert_all_open(runtime, kept)
    await assert_reconciled(stack, runtime, owner_conn)
    for id_, row in (await rows(owner_conn, kept)).items():
        assert (row["row_version"], row["updated_at"]) == (before[id_]["row_version"], before[id_]["updated_at"])
    for each in kept:
        await runtime.writer.rollback(each.somebody.access, each.id, if_match=None)
        assert await each.somebody.opens(runtime, each.id) == each.previous
