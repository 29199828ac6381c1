"""Following a job to its end: a bar where somebody looks at it, a line now and then where nobody does."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from service.commands.key_tables import progress
from service.commands.service_client import ServiceClient, ServiceUnreachable
from service.schemas.key_schemas import JobDetails

_POLL_SECONDS = 0.5
_LINE_SECONDS = 10.0
_PATIENCE = 120.0
_OVER = ("done", "failed")

Json = Mapping[str, Any]


async def follow(client: ServiceClient, job: Json, console: Console) -> Json:
    """Waits until a job is over, and shows how far it is. Returns it with its failures.

    A service that is restarted meanwhile is waited for, for two minutes at most; then raises ServiceUnreachable.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(job["kind"], total=None, left="")

        def shown(now: Json) -> None:
            estimate = progress(now).partition(", about ")[2]
            waits = "" if now["state"] != "waiting" else "waiting for a worker"
            bar.update(
                task, total=now["total"], completed=now["done"] + now["failed"], left=estimate or waits, refresh=True
            )

        return await _polled(client, job, shown if console.is_terminal else _lines(console))


def _lines(console: Console) -> Callable[[Json], None]:
    said_at = time.monotonic()

    def shown(now: Json) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _LINE_SECONDS:
            said_at = time.monotonic()
            told = progress(now) if now["kind"] == "rewrap" else "not done yet"
            console.print(f"{now['kind']}: {now['state']}, {told}", markup=False, highlight=False)

    return shown


async def _polled(client: ServiceClient, job: Json, shown: Callable[[Json], None]) -> Json:
    answered_at = time.monotonic()
    while True:
        try:
            _, now = await client.call("GET", f"/v1/jobs/{quote(str(job['id']), safe='')}", JobDetails)
            answered_at = time.monotonic()
        except ServiceUnreachable:
            if time.monotonic() - answered_at > _PATIENCE:
                raise
        else:
            if now["state"] in _OVER:
                return now
            shown(now)
        await asyncio.sleep(_POLL_SECONDS)
