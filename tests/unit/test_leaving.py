"""A server that leaves: whichever signals come, it ends in order, and what is cut has its time to say so."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from service.server import Server, config

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    "signals", [(TERM,), (INT,), (TERM, TERM), (TERM, INT), (INT, INT), (INT, TERM), (TERM, INT, INT)]
)
def test_no_signals_skip_the_applications_shutdown(signals: tuple[signal.Signals, ...]) -> None:
    server = Server(config(None, grace_seconds=1))
    for each in signals:
        server.handle_exit(each, None)
    assert server.should_exit
    assert not server.force_exit
    assert server._captured_signals == list(signals)


@pytest.mark.parametrize(("signals", "grace"), [((), 1), ((INT, INT), 3600)])
async def test_the_application_is_shut_down_when_what_was_cut_has_cleaned_up(
    signals: tuple[signal.Signals, ...], grace: int
) -> None:
    done = []

    async def request() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0.01)
            done.append("cleaned up")

    async def shut_down() -> None:
        done.append("shut down")

    server = Server(config(None, grace_seconds=grace))
    server.servers = []
    lifespan: Any = SimpleNamespace(shutdown=shut_down)
    server.lifespan = lifespan
    under_way = asyncio.create_task(request())
    server.server_state.tasks.add(under_way)
    for each in signals:
        server.handle_exit(each, None)
    await server.shutdown()
    assert done == ["cleaned up", "shut down"]
