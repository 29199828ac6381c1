"""A process that imports a file, and kills itself after a step of it. Run by `test_import_kills.py`."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from service.composition import Runtime
from service.modules.import_records import Mode
from service.postgres.access_log import PostgresAccessLog
from service.postgres.bulk_store import BulkCredentialStore
from service.postgres.fernet_table import FernetSource, FernetTable, fernet_of
from service.settings import Settings
from service.vault.ciphertext_store import KvCiphertextStore
from service.vault.transit import TransitCipher
from tests.importing import OLGA, import_file

STEPS: dict[str, tuple[type, str]] = {
    "look": (BulkCredentialStore, "get_each"),
    "encrypt": (TransitCipher, "encrypt"),
    "intents": (BulkCredentialStore, "_begin_each"),
    "write": (KvCiphertextStore, "write"),
    "annotate": (KvCiphertextStore, "annotate"),
    "insert": (BulkCredentialStore, "_insert_each"),
    "authorise": (PostgresAccessLog, "authorise_opens"),
    "read": (KvCiphertextStore, "read"),
    "decrypt": (TransitCipher, "decrypt"),
    "wipe": (FernetSource, "wipe"),
}


def run(settings: Settings, source: Path | tuple[str, str, FernetTable], dies_after: tuple[str, int]) -> None:
    """Imports the file, or the table (its URL, the Fernet key, the table), whose rows it wipes."""
    with ExitStack() as patches:
        for step, (owner, method) in STEPS.items():
            left = dies_after[1] if step == dies_after[0] else None
            patches.enter_context(patch.object(owner, method, _deadly(getattr(owner, method), left)))
        asyncio.run(_run(settings, source))


def _deadly(call: Callable[..., Awaitable[Any]], left: int | None) -> Callable[..., Awaitable[Any]]:
    done = 0

    async def called(*args: Any, **given: Any) -> Any:
        nonlocal done
        result = await call(*args, **given)
        done += 1
        if done == left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


async def _run(settings: Settings, source: Path | tuple[str, str, FernetTable]) -> None:
    async with Runtime.open(settings, bulk=True) as runtime:
        await runtime.reconciler.ensure_same_installation()
        if isinstance(source, Path):
            await import_file(runtime, source)
            return
        url, key, table = source
        async with FernetSource.open(url, fernet_of([key]), table) as opened:
            await runtime.importer.run(OLGA, opened, Mode.IMPORT, wipe=opened.wipe)
