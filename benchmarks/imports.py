"""Importing; and beside it, in turns, what its share of Vault's work takes alone: encrypt batches and KV writes.

    python -m benchmarks.imports [--rows 2000] [--rounds 3]

Both sides are in this one process, over the same kind of connections and with as many KV writes at once. An import does
more for each credential: its custom metadata (another write to KV), three statements in Postgres, and the read-back
(a read from KV, a decryption). One ratio is to one KV write for each credential, the other to both that it makes.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

from benchmarks.testbed import Testbed, testbed
from service.composition import Runtime
from service.http_clients import vault_client
from service.memory.plaintext import Plaintext
from service.modules.cipher_batches import CipherBatches
from service.modules.coalescer import BatchLimits, FairQueue
from service.modules.import_records import Mode
from service.modules.records import ImportAccess
from service.settings import Settings
from service.sources.files import FileSource, Kind
from service.sources.secret_lines import SecretLines, secret_file
from service.vault.ciphertext_store import KvCiphertextStore
from service.vault.login import VaultSession
from service.vault.transit import TransitCipher
from service.vault.wire import Wire
from service.vault.wire_client import WireVaultClient

_CALLERS = 64
_ANNOTATION = {
    "credential_type": "alpaca",
    "transit_key": "credentials-alpaca",
    "transit_key_version": "1",
    "secret_version": "1",
}


@asynccontextmanager
async def _storing(settings: Settings, *, annotated: bool) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """What encrypts a pair and writes it to KV, and does nothing else."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(vault_client(settings))
        session = await stack.enter_async_context(VaultSession.open(http, settings))
        wire = await stack.enter_async_context(Wire.open(settings))
        vault = WireVaultClient(http, session, wire, namespace=None, retries=0)
        limits = BatchLimits(items=settings.batch_items, under_way=settings.batches_under_way, waiting=4096)
        ciphers = CipherBatches(TransitCipher(vault, wire, settings.transit_mount), limits)
        stack.push_async_callback(ciphers.aclose)
        kv, queue = (
            KvCiphertextStore(vault, settings.kv_mount),
            FairQueue(at_once=settings.kv_writes_at_once, waiting=4096, name="kv"),
        )
        stack.push_async_callback(queue.aclose)
        key = settings.transit_key("alpaca")

        async def store() -> None:
            path = f"{uuid4()}/{uuid4()}"
            with Plaintext.copy_of(f"{secrets.token_hex(10)}\n{secrets.token_hex(20)}") as pair:
                seal = await ciphers.encrypt(key, pair, secrets.token_bytes(32), user_id="")

            async def write() -> None:
                await kv.write(path, seal.ciphertext, cas=0)
                if annotated:
                    await kv.annotate(path, _ANNOTATION)

            await queue.run(write, group="")

        yield store


async def _alone(settings: Settings, rows: int, *, annotated: bool) -> float:
    left = rows
    async with _storing(settings, annotated=annotated) as store:
        await store()

        async def caller() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await store()

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(caller())
        return rows / (time.perf_counter() - started)


def _file(folder: Path, rows: int) -> Path:
    path = folder / "import.jsonl"
    with path.open("w", encoding="ascii") as file:
        for number in range(rows):
            row = {
                "user_id": f"user-{number % 500}",
                "account_id": str(uuid4()),
                "credential_type": "alpaca",
                "api_key": secrets.token_hex(10),
                "secret_key": secrets.token_hex(20),
            }
            file.write(json.dumps(row) + "\n")
    return path


async def _imported(settings: Settings, path: Path) -> float:
    access = ImportAccess(actor="operator:benchmark")
    async with Runtime.open(settings, bulk=True) as runtime:
        await runtime.reconciler.ensure_same_installation()
        with secret_file(path) as descriptor:
            source = FileSource(SecretLines(descriptor), Kind.JSON_LINES)
            report = await runtime.importer.run(access, source, Mode.IMPORT)
        assert report.is_complete
        return report.rows / report.seconds


async def _measure(bed: Testbed, rows: int, rounds: int) -> None:
    settings = bed.stack.settings()
    sides: dict[str, Callable[[], Awaitable[float]]] = {
        "import": lambda: _imported(settings, _file(bed.folder, rows)),
        "encrypt + KV write": lambda: _alone(settings, rows, annotated=False),
        "encrypt + both KV writes": lambda: _alone(settings, rows, annotated=True),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides)
        for name in names[number % 3 :] + names[: number % 3]:
            before, used = bed.cpu_seconds(), time.process_time()
            found[name].append(await sides[name]())
            after = bed.cpu_seconds()
            spent = {"python": time.process_time() - used, **{each: after[each] - before[each] for each in after}}
            cpu = ", ".join(f"{each} {1e6 * seconds / rows:,.0f}" for each, seconds in spent.items())
            print(f"round {number + 1}: {name}: {found[name][-1]:,.0f} credentials/s; CPU µs each: {cpu}", flush=True)
    ours, *alone = (statistics.median(each) for each in found.values())
    for name, each in zip(list(sides)[1:], alone, strict=True):
        print(f"import {ours:,.0f}/s, to {name} {each:,.0f}/s: {ours / each:.2f}")


def main() -> None:
    """The whole of it, on a stack of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with testbed(print) as bed:
        asyncio.run(_measure(bed, given.rows, given.rounds))


if __name__ == "__main__":
    main()
