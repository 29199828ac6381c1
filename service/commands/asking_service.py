"""What the commands share that ask the running service: its address as an option, a token, one event loop each."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from service.commands.service_client import ServiceClient, Target

_Result = TypeVar("_Result")

JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
UrlOption = Annotated[
    str | None,
    typer.Option(envvar="SERVICE_URL", help="The service's address.", show_default="the local stack's"),
]


def note_target(context: typer.Context, url: str | None, state_dir: Path) -> None:
    """Keeps how to find the service, for `asked`: worked out then, so that `-h` needs neither a service nor a token."""
    from service.commands.service_client import find_target

    context.obj = lambda: find_target(url, os.environ.get("CREDENTIALS_TOKEN"), state_dir)


def asked(context: typer.Context, work: "Callable[[ServiceClient], Coroutine[Any, Any, _Result]]") -> _Result:
    """What `work` brings, with a client of the service. Raises as `find_target`, and what `work` does."""
    from service.commands.service_client import ServiceClient

    target: Target = context.obj()

    async def ask() -> _Result:
        async with ServiceClient.open(target) as client:
            return await work(client)

    return asyncio.run(ask())
