"""Invariant 6: Postgres is the commit point. A process that dies between any two steps of a write harms nothing.

Each test kills a process at one step of one operation, and looks at real servers: before anything is cleaned up the old
or the new credential opens, and after reconciliation nothing is left over. `STEPS` is compared with a run that isn't
killed, so a step that is added to a flow is not forgotten here.
"""

import multiprocessing
import secrets
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from uuid import UUID

import pytest

from service.composition import Runtime
from service.errors import CredentialNotFound, NothingToRollBack
from tests import crash_process
from tests.conftest import start_stack
from tests.crash_process import Job
from tests.support import Stack
from tests.written import Connection, Pair, Somebody, assert_agree, pair_of_keys

_SEAL_AND_WRITE = ["cipher.encrypt", "store.begin_write", "ciphertexts.write", "ciphertexts.annotate"]
_OPEN = ["log.authorise_opens", "ciphertexts.read", "cipher.decrypt"]
STEPS = {
    "store": ["store.find_idempotent", "cipher.hmac", *_SEAL_AND_WRITE, "store.insert"],
    "update_both_keys": ["store.get", "ciphertexts.newest_version", *_SEAL_AND_WRITE, "store.replace_secret"],
    "update_one_key": ["store.get", *_OPEN, "ciphertexts.newest_version", *_SEAL_AND_WRITE, "store.replace_secret"],
    "rollback": ["store.get", *_OPEN, "ciphertexts.newest_version", *_SEAL_AND_WRITE, "store.replace_secret"],
    "delete": ["store.get", "store.remove", "ciphertexts.delete", "store.abandon_write"],
}
COMMITS = ("store.insert", "store.replace_secret", "store.remove")


def crashes(*operations: str) -> pytest.MarkDecorator:
    """Every place to die: before the first step, and after each."""
    places = [
        pytest.param(operation, number, id=f"{operation}-after-{step}")
        for operation in operations
        for number, step in enumerate(["nothing", *STEPS[operation]])
    ]
    return pytest.mark.parametrize(("operation", "died_after"), places)


def committed(operation: str, died_after: int) -> bool:
    """Whether the commit was behind it when the process died."""
    return any(step in COMMITS for step in STEPS[operation][:died_after])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own: a service on the shared one may reconcile it in the background."""
    with start_stack(tmp_path_factory.mktemp("crashes")) as started:
        yield started


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have imported everything before they start, so that each test takes little."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash_process"])
    return context


class Scene:
    """Two credentials of one user, one of which a process is about to change."""

    def __init__(self, stack: Stack, processes: ForkServerContext, folder: Path) -> None:
        self._stack = stack
        self._processes = processes
        self._steps_file = folder / "steps"
        self.somebody = Somebody()
        self.bystander_keys = pair_of_keys()
        self.older: Pair = pair_of_keys()
        self.old: Pair = pair_of_keys()
        self.new: Pair = pair_of_keys()
        self.bystander: UUID
        self.target: UUID | None = None

    async def set(self, runtime: Runtime, operation: str) -> Job:
        """Stores what the operation needs."""
        self.bystander = (await self.somebody.store(runtime, self.bystander_keys)).id
        if operation != "store":
            # Updated once already, so that there is a previous secret to roll back to, and to be pushed out.
            self.target = (await self.somebody.store(runtime, self.older)).id
            await self.somebody.update(runtime, self.target, *self.old)
        return Job(operation, self.somebody, self.target, self.new, idempotency_key=secrets.token_hex(8))

    def run(self, job: Job) -> int | None:
        """Does the job in another process; its exit code."""
        settings = self._stack.settings()
        process = self._processes.Process(target=crash_process.run, args=(settings, job, self._steps_file))
        process.start()
        process.join(30)
        assert process.exitcode is not None, "the process hangs"
        return process.exitcode

    @property
    def steps(self) -> list[str]:
        return self._steps_file.read_text().split()

    def expected(self, operation: str) -> Pair:
        """What opens once the operation is done."""
        return {
            "store": self.new,
            "update_both_keys": self.new,
            "update_one_key": (self.old[0], self.new[1]),
            "rollback": self.older,
        }[operation]


@pytest.fixture
def scene(stack: Stack, processes: ForkServerContext, tmp_path: Path) -> Scene:
    return Scene(stack, processes, tmp_path)


async def reconcile(stack: Stack, runtime: Runtime, conn: Connection, somebody: Somebody) -> None:
    """Reconciles as if the intents' time had come; then nothing may be left over, and nothing be missing."""
    await somebody.make_intents_due(conn)
    report = await runtime.reconciler.run(apply=True)
    assert report.failed == 0
    assert await somebody.intents(conn) == 0
    ids = await somebody.row_ids(conn)
    assert somebody.paths(stack) == {str(each) for each in ids}
    for each in ids:
        await assert_agree(stack, conn, each)
    scanned = await runtime.reconciler.scan(apply=False)
    assert not set(scanned.broken) & set(ids)
    assert not [each for each in scanned.unaccounted if each.startswith(str(somebody.account_id))]


@pytest.mark.parametrize("operation", STEPS)
async def test_invariant_6_is_tested_at_every_step_that_there_is(
    scene: Scene, runtime: Runtime, operation: str
) -> None:
    job = await scene.set(runtime, operation)
    assert scene.run(job) == 0
    assert scene.steps == STEPS[operation]


@crashes("update_both_keys", "update_one_key", "rollback")
async def test_invariant_6_after_a_crash_the_old_or_the_new_credential_opens(
    stack: Stack, runtime: Runtime, owner_conn: Connection, scene: Scene, operation: str, died_after: int
) -> None:
    job = await scene.set(runtime, operation)
    assert job.credential_id is not None
    assert scene.run(replace(job, dies_after=died_after)) == -signal.SIGKILL
    expected = scene.expected(operation) if committed(operation, died_after) else scene.old
    assert await scene.somebody.opens(runtime, job.credential_id) == expected
    assert await scene.somebody.opens(runtime, scene.bystander) == scene.bystander_keys
    await reconcile(stack, runtime, owner_conn, scene.somebody)
    assert await scene.somebody.opens(runtime, job.credential_id) == expected
    assert await scene.somebody.opens(runtime, scene.bystander) == scene.bystander_keys
    # What a rollback would bring back is whole as well.
    await runtime.writer.rollback(scene.somebody.access, job.credential_id, if_match=None)
    back = scene.old if committed(operation, died_after) else scene.older
    assert await scene.somebody.opens(runtime, job.credential_id) == back


@crashes("store")
async def test_invariant_6_a_store_that_crashed_is_there_or_is_not_and_can_be_sent_again(
    stack: Stack, runtime: Runtime, owner_conn: Connection, scene: Scene, operation: str, died_after: int
) -> None:
    job = await scene.set(runtime, operation)
    assert scene.run(replace(job, dies_after=died_after)) == -signal.SIGKILL
    stored = await scene.somebody.row_ids(owner_conn)
    assert len(stored) == 1 + committed(operation, died_after)
    for each in stored[1:]:
        assert await scene.somebody.opens(runtime, each) == scene.new
    await reconcile(stack, runtime, owner_conn, scene.somebody)
    assert await scene.somebody.row_ids(owner_conn) == stored
    again = await scene.somebody.store(runtime, scene.new, idempotency_key=job.idempotency_key)
    assert await scene.somebody.row_ids(owner_conn) == [scene.bystander, again.id]
    assert await scene.somebody.opens(runtime, again.id) == scene.new
    assert await scene.somebody.opens(runtime, scene.bystander) == scene.bystander_keys


@crashes("delete")
async def test_invariant_6_a_delete_that_crashed_has_deleted_all_or_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection, scene: Scene, operation: str, died_after: int
) -> None:
    job = await scene.set(runtime, operation)
    assert job.credential_id is not None
    assert scene.run(replace(job, dies_after=died_after)) == -signal.SIGKILL
    for _ in ("before reconciliation", "after it"):
        if committed(operation, died_after):
            with pytest.raises(CredentialNotFound):
                await scene.somebody.opens(runtime, job.credential_id)
        else:
            assert await scene.somebody.opens(runtime, job.credential_id) == scene.old
        assert await scene.somebody.opens(runtime, scene.bystander) == scene.bystander_keys
        await reconcile(stack, runtime, owner_conn, scene.somebody)


async def test_invariant_6_crash_after_crash_loses_nothing(
    stack: Stack, runtime: Runtime, owner_conn: Connection, scene: Scene
) -> None:
    job = await scene.set(runtime, "update_both_keys")
    assert job.credential_id is not None
    before_commit = STEPS["update_both_keys"].index("store.replace_secret")
    for _ in range(4):
        assert scene.run(replace(job, dies_after=before_commit)) == -signal.SIGKILL
    assert await scene.somebody.intents(owner_conn) >= 4
    assert await scene.somebody.opens(runtime, job.credential_id) == scene.old
    await scene.somebody.update(runtime, job.credential_id, *scene.new)
    await reconcile(stack, runtime, owner_conn, scene.somebody)
    assert await scene.somebody.opens(runtime, job.credential_id) == scene.new
    with pytest.raises(NothingToRollBack):
        await runtime.writer.rollback(scene.somebody.access, scene.bystander, if_match=None)
