"""What a library holds open for a program that never says when it ends: one of a kind for each event loop."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Generic, TypeVar

from service.correlation import start_alone

_Held = TypeVar("_Held")


class OncePerLoop(Generic[_Held]):
    """Opens something once for each event loop, and holds it in a task of that loop.

    `asyncio.run` cancels a loop's tasks at its end, and waits for them: so what a program never closes is closed in
    order all the same. (An async generator would not do: asyncio closes all of a loop's at once, nested ones too.)
    """

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[_Held]]) -> None:
        """`opening` is called when a loop asks that holds none."""
        self._opening = opening
        self._held: dict[asyncio.AbstractEventLoop, tuple[asyncio.Task[None], asyncio.Future[_Held]]] = {}

    async def get(self) -> _Held:
        """What is held in this event loop, opened if nobody has asked before. Raises as opening it does; whoever asks
        after that has it tried again."""
        loop = asyncio.get_running_loop()
        if loop not in self._held:
            for ended in [other for other in self._held if other.is_closed()]:
                del self._held[ended]
            opened: asyncio.Future[_Held] = loop.create_future()
            self._held[loop] = start_alone(self._hold(opened), "vault-credentials"), opened
        # Shielded: a caller that gives up must not take it from the others.
        return await asyncio.shield(self._held[loop][1])

    async def _hold(self, opened: "asyncio.Future[_Held]") -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._opening() as held:
                opened.set_result(held)
                await loop.create_future()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)
        finally:
            opened.cancel()  # the loop ended while it was being opened; nothing happens where it was
            self._held.pop(loop, None)

    async def close(self) -> None:
        """Closes what is held in this event loop, if anything is, and waits until it is closed."""
        task, _opened = self._held.get(asyncio.get_running_loop(), (None, None))
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
