"""A runtime whose calls to Vault and Postgres can be watched, held and cut short, at the ports, between any two steps.

The real adapters are behind the hooks: what is not held or ended goes to a real server.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch

from service import composition, rotator
from service.composition import Runtime
from service.rotator import Rotator
from service.settings import Settings

Hook = Callable[[str, str], Awaitable[None]]
"""Called with `before` or `after` and the step's name, `ciphertexts.write` say."""

_PORTS = {
    "store": "PostgresCredentialStore",
    "log": "PostgresAccessLog",
    "ciphertexts": "KvCiphertextStore",
    "cipher": "TransitCipher",
}


_ROTATOR_PORTS = {"store": "PostgresRotationStore", "ciphertexts": "KvCiphertextStore", "keys": "TransitKeyRing"}


class HookedPort:
    """Passes every call on, and calls the hook before and after it."""

    def __init__(self, name: str, port: object, hook: Hook) -> None:
        self._name = name
        self._port = port
        self._hook = hook

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._port, method)
        if not inspect.iscoroutinefunction(call):
            return call
        step = f"{self._name}.{method}"

        async def hooked(*args: Any, **kwargs: Any) -> Any:
            await self._hook("before", step)
            result = await call(*args, **kwargs)
            await self._hook("after", step)
            return result

        return hooked


class HookedRotationStore(HookedPort):
    """As `HookedPort`, its batches too, as `batch.begin` and so on."""

    @asynccontextmanager
    async def take(self, *args: Any) -> AsyncIterator[HookedPort]:
        async with self._port.take(*args) as batch:  # type: ignore[attr-defined]  # whatever port this is
            yield HookedPort("batch", batch, self._hook)


@contextmanager
def hooked_ports(hook: Hook) -> Iterator[None]:
    """The hook around the ports of every runtime that is opened in the block."""

    def wrapping(name: str, adapter: Callable[..., object]) -> Callable[..., HookedPort]:
        return lambda *args, **named: HookedPort(name, adapter(*args, **named), hook)

    with ExitStack() as patches:
        for name, adapter in _PORTS.items():
            patches.enter_context(patch.object(composition, adapter, wrapping(name, getattr(composition, adapter))))
        yield


@asynccontextmanager
async def hooked_runtime(settings: Settings, hook: Hook) -> AsyncIterator[Runtime]:
    """`Runtime.open`, with the hook around its ports."""
    async with AsyncExitStack() as stack:
        with hooked_ports(hook):
            runtime = await stack.enter_async_context(Runtime.open(settings))
        yield runtime


@asynccontextmanager
async def hooked_rotator(settings: Settings, hook: Hook) -> AsyncIterator[Rotator]:
    """`Rotator.open` as the settings' rotator, with the hook around its ports."""

    def wrapping(name: str, adapter: Callable[..., object]) -> Callable[..., HookedPort]:
        kind = HookedRotationStore if name == "store" else HookedPort
        return lambda *args: kind(name, adapter(*args), hook)

    own = settings.as_rotator()
    assert own is not None
    async with AsyncExitStack() as stack:
        with ExitStack() as patches:
            for name, adapter in _ROTATOR_PORTS.items():
                patches.enter_context(patch.object(rotator, adapter, wrapping(name, getattr(rotator, adapter))))
            opened = await stack.enter_async_context(Rotator.open(own))
        yield opened


class Gate:
    """A hook that holds the first call of one step until it is opened."""

    def __init__(self, when: str, step: str) -> None:
        self._held = (when, step)
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, when: str, step: str) -> None:
        if (when, step) == self._held and not self.reached.is_set():
            self.reached.set()
            await self.opened.wait()

    async def wait_for(self, task: "asyncio.Task[Any]") -> None:
        """Returns when the task has come to the gate; raises what it raised if it never gets there."""
        arrival = asyncio.ensure_future(self.reached.wait())
        await asyncio.wait({arrival, task}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        if not self.reached.is_set():
            arrival.cancel()
            await task
            raise AssertionError("the task ended without coming to the gate")
