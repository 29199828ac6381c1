"""A fresh process that opens a credential, having been given its id alone: `python -m tests.zeroing.target`.

What to do comes as a line of JSON on stdin. Wherever there is something to look at, the process says where it is by a
line on stdout, and waits for a line on stdin. It keeps every reference it ever had: what is zero must be zero all the
same.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from tests.zeroing.without import take_away

Block = Callable[[str], AbstractAsyncContextManager[tuple[str, str]]]
"""Opens the credential of this id."""

_kept: list[object] = []


def stands(place: str) -> None:
    """Says where the process is, and stops there: nothing else runs meanwhile."""
    _say(place)
    sys.stdin.readline()


def _say(place: str) -> None:
    sys.stdout.write(f"{place}\n")
    sys.stdout.flush()


async def waits(place: str) -> None:
    """Says where the process is, and waits there while its event loop runs."""
    _say(place)
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, told.set)
    await told.wait()
    loop.remove_reader(sys.stdin)
    sys.stdin.readline()


async def opened(block: Block, ids: list[str]) -> None:
    """The usual way."""
    async with block(ids[0]) as keys:
        _kept.append(keys)
        stands("inside")
    stands("after")


async def broken(block: Block, ids: list[str]) -> None:
    """The block raises."""
    try:
        async with block(ids[0]) as keys:
            _kept.append(keys)
            stands("inside")
            raise LookupError(*keys)
    except LookupError as error:
        _kept.append(error)
    stands("after")


async def refused(block: Block, ids: list[str]) -> None:
    """Opening raises."""
    await _opened_together(block, ids)
    stands("after")


async def cancelled(block: Block, ids: list[str]) -> None:
    """Opening is given up while it is under way."""
    task = asyncio.create_task(_opened_together(block, ids))
    await waits("under way")
    task.cancel()
    _kept.extend(await asyncio.gather(task, return_exceptions=True))
    stands("after")


async def together(block: Block, ids: list[str]) -> None:
    """Many are opened at once, and so in one batch. All blocks end when all have begun or failed."""
    await _opened_together(block, ids, then=lambda: stands("inside"))
    stands("after")


async def _opened_together(block: Block, ids: list[str], then: Callable[[], None] = lambda: None) -> None:
    everybody = asyncio.Event()

    async def one(credential_id: str) -> None:
        try:
            async with block(credential_id) as keys:
                kept(keys)
                await everybody.wait()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is kept and looked at
            kept(error)

    def kept(each: object) -> None:
        _kept.append(each)
        if len(_kept) == len(ids):
            then()
            everybody.set()

    await asyncio.gather(*map(one, ids))


DOINGS: dict[str, Callable[[Block, list[str]], Awaitable[None]]] = {
    each.__name__: each for each in (opened, broken, refused, cancelled, together)
}


async def main(told: dict[str, Any]) -> None:
    """Does what it was told, and then waits, its event loop running, to be ended."""
    import asyncpg

    from service.composition import Runtime
    from service.modules.credential_service import get_decrypted_credential
    from service.modules.records import OwnerAccess
    from service.settings import load_settings

    settings = load_settings()
    user_id, ids = told["user_id"], told["ids"]
    access = OwnerAccess(user_id=user_id, actor="test")
    doing = DOINGS[told["doing"]]
    async with Runtime.open(settings) if told["by"] == "opener" else nullcontext() as runtime:
        if runtime is not None:
            await doing(lambda each: runtime.opener.reveal(access, each), ids)
        else:
            conn = await asyncpg.connect(settings.database_url.get_secret_value())
            await doing(lambda each: get_decrypted_credential(conn, each, user_id), ids)
        await waits("at rest")
        await waits("at rest again")


if __name__ == "__main__":
    _told = json.loads(sys.stdin.readline())
    take_away(_told["without"])
    asyncio.run(main(_told))
