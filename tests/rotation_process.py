"""A process that does jobs, and kills itself at a step of one, as a crash or the OOM killer would.

SIGKILL: nothing is closed, caught or finished. Run by `test_rotation_crashes.py`, in a process of its own.
"""

import asyncio
import os
import signal
from pathlib import Path

from service.settings import Settings
from tests.port_hooks import hooked_rotator


def run(settings: Settings, turns: int, dies_after: int | None, steps_file: Path) -> None:
    """Gives so many turns to jobs, and dies after so many steps (None: not at all). Writes each step's name down."""
    asyncio.run(_run(settings, turns, dies_after, steps_file))


async def _run(settings: Settings, turns: int, dies_after: int | None, steps_file: Path) -> None:
    steps = 0

    async def hook(when: str, step: str) -> None:
        nonlocal steps
        if when == "after":
            steps += 1
            with steps_file.open("a") as file:
                file.write(step + "\n")
        if steps == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    async with hooked_rotator(settings, hook) as rotator:
        for _ in range(turns):
            await rotator.runner.step()
