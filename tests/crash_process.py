"""A process that does one thing to a credential, and kills itself at a step of it, as a crash or the OOM killer would.

SIGKILL: nothing is closed, caught or finished. Run by `test_invariant_6_crash_safety.py`, in a process of its own.
"""

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from service.composition import Runtime
from service.settings import Settings
from tests.port_hooks import hooked_runtime
from tests.written import Pair, Somebody

IN_THE_BACKGROUND = "store.touch_used"  # `last_used_at`; no write waits for it


@dataclass(frozen=True)
class Job:
    """What to do, for whom, and after how many steps to die (None: not at all)."""

    operation: str
    somebody: Somebody
    credential_id: UUID | None
    keys: Pair
    idempotency_key: str | None = None
    dies_after: int | None = None


def run(settings: Settings, job: Job, steps_file: Path) -> None:
    """Does the job. Writes each step's name to the file when it is done."""
    asyncio.run(_run(settings, job, steps_file))


async def _run(settings: Settings, job: Job, steps_file: Path) -> None:
    steps = 0

    async def hook(when: str, step: str) -> None:
        nonlocal steps
        if step == IN_THE_BACKGROUND:
            return
        if when == "after":
            steps += 1
            with steps_file.open("a") as file:
                file.write(step + "\n")
        if steps == job.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    async with hooked_runtime(settings, hook) as runtime:
        await _work(runtime, job)


async def _work(runtime: Runtime, job: Job) -> None:
    somebody = job.somebody
    if job.operation == "store":
        await somebody.store(runtime, job.keys, idempotency_key=job.idempotency_key)
        return
    assert job.credential_id is not None
    match job.operation:
        case "update_both_keys":
            await somebody.update(runtime, job.credential_id, *job.keys)
        case "update_one_key":
            await somebody.update(runtime, job.credential_id, secret_key=job.keys[1])
        case "rollback":
            await runtime.writer.rollback(somebody.access, job.credential_id, if_match=None)
        case "delete":
            await runtime.writer.delete(somebody.access, job.credential_id, if_match=None)
        case other:
            raise AssertionError(other)
