"""How the service listens: uvicorn's settings, in one place, for `serve`, for `run` and for the tests."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from service.errors import ConfigurationError

_GRACE_SECONDS = 10
_IDLE_SECONDS = 30


def config(app: Any, *, host: str = "127.0.0.1", port: int = 8080) -> uvicorn.Config:
    """asyncio's own loop (uvloop keeps request bytes in a static buffer), httptools, and no access log: ours says who
    did what, uvicorn's would print paths and queries.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="asyncio",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=512,
    )


class Server(uvicorn.Server):
    """uvicorn, telling when it listens."""

    def __init__(self, settings: uvicorn.Config, when_ready: Callable[[], None] | None = None) -> None:
        super().__init__(settings)
        self._when_ready = when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens what the application needs, then listens."""
        await super().startup(sockets)
        if self.started and self._when_ready is not None:
            self._when_ready()


def serve(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    sockets: Sequence[socket.socket] | None = None,
    when_ready: Callable[[], None] | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, then lets requests under way end (10 s at most).

    The signal is raised again afterwards, for whoever handled it before (uvicorn's behaviour).

    Raises:
        ConfigurationError: the service did not start; what failed has been logged.
    """
    server = Server(config(app, host=host, port=port), when_ready)
    asyncio.run(server.serve(sockets=None if sockets is None else list(sockets)))
    if not server.started:
        raise ConfigurationError("the service did not start; see the log above")
