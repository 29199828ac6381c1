"""Signals to a server that leaves: whichever come, it ends in order."""

import signal

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
