"""One world for the faults of a run: they come one after the other, while the load goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from service.composition import Runtime
from tests.conftest import backend, start_stack
from tests.faults.callers import Load
from tests.faults.world import world
from tests.own_vault import vault_source


@pytest.fixture(scope="package")
async def load(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Load]:
    """The load on a world of this folder's own, paused."""
    if backend()[0] != "local":
        pytest.skip("the faults end processes of this machine: TEST_BACKEND=local")
    folder = tmp_path_factory.mktemp("faults")
    with start_stack(folder / "stack") as stack:
        async with world(stack, vault_source("local"), folder) as made, Runtime.open(stack.settings()) as runtime:
            loaded = Load(made, runtime)
            await loaded.prepare()
            running = asyncio.create_task(loaded.run(), name="load")
            yield loaded
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
