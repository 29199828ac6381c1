"""Fills databases and Vault with credentials as the service would have stored them, by the thousand.

Rows are made by Postgres; their ciphertexts are encrypted in batches and written to KV side by side. Nothing of this is
measured; that the service opens what was written here is checked by every round.
"""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from benchmarks.statements import QUERIES, USUAL
from service.localstack.stack import LocalStack
from service.modules.derivation_context import derivation_context

_TYPE = "alpaca"
_BATCH = 500
_WRITES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Loaded:
    """A credential that can be opened."""

    id: UUID
    user_id: str


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection for as long as the block lasts; filling a million rows takes longer than a service would wait."""
    connection = await asyncpg.connect(url, command_timeout=600)
    try:
        yield connection
    finally:
        await connection.close()


async def fill(stack: LocalStack, database_url: str, rows: int, ciphertexts: int, *, usual: bool) -> list[Loaded]:
    """Makes `rows` credentials, with ciphertexts for a random sample of them, which is returned.

    `usual`: also the tables of the usual service, of the same credentials, in the same database.
    """
    names = stack.names
    async with connected(database_url) as connection, _vault(stack) as vault:
        await connection.execute(
            QUERIES["fill_credentials"], rows, names.transit, names.type_key(_TYPE), names.kv, timeout=600
        )
        await connection.execute(QUERIES["fill_events"], timeout=600)
        sample = await connection.fetch(QUERIES["sample"], ciphertexts)
        if usual:
            await connection.execute(USUAL["make_tables"])
        for start in range(0, len(sample), _BATCH):
            batch = sample[start : start + _BATCH]
            pairs = [_realistic_pair() for _ in batch]
            await _write_ours(vault, stack, batch, pairs)
            if usual:
                await _write_usual(vault, stack, connection, batch, pairs)
        await connection.execute(QUERIES["settle"])
        await connection.execute(QUERIES["checkpoint"])
    return [Loaded(row["id"], row["user_id"]) for row in sample]


def _realistic_pair() -> tuple[str, str]:
    """As long as Alpaca's: 20 and 40 characters."""
    return f"PK{secrets.token_hex(9).upper()}", secrets.token_urlsafe(30)


@asynccontextmanager
async def _vault(stack: LocalStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        f"{stack.vault.address}/v1/",
        headers={"X-Vault-Token": stack.vault.token},
        connector=aiohttp.TCPConnector(limit=_WRITES_AT_ONCE),
        raise_for_status=True,
    ) as session:
        yield session


async def _write_ours(
    vault: aiohttp.ClientSession,
    stack: LocalStack,
    rows: Sequence[Any],
    pairs: Sequence[tuple[str, str]],
) -> None:
    contexts = [
        derivation_context(
            binding=row["binding"],
            user_id=row["user_id"],
            account_id=row["account_id"],
            credential_id=row["id"],
            secret_version=1,
            credential_type=_TYPE,
        )
        for row in rows
    ]
    ciphertexts = await _encrypted(vault, stack, ["\n".join(pair) for pair in pairs], contexts)

    async def write(row: Any, ciphertext: str) -> None:
        path = f"{stack.names.kv}/data/{row['account_id']}/{row['id']}"
        async with vault.post(path, json={"data": {"ciphertext": ciphertext}, "options": {"cas": 0}}):
            pass

    async with asyncio.TaskGroup() as group:
        for row, ciphertext in zip(rows, ciphertexts, strict=True):
            group.create_task(write(row, ciphertext))


async def _write_usual(
    vault: aiohttp.ClientSession,
    stack: LocalStack,
    connection: "asyncpg.Connection[asyncpg.Record]",
    rows: Sequence[Any],
    pairs: Sequence[tuple[str, str]],
) -> None:
    contexts = [row["id"].bytes for row in rows]
    texts = [json.dumps({"api_key": api_key, "secret_key": secret_key}) for api_key, secret_key in pairs]
    ciphertexts = await _encrypted(vault, stack, texts, contexts)
    await connection.copy_records_to_table(
        "credentials",
        schema_name="usual",
        columns=("id", "user_id", "context", "ciphertext"),
        records=[
            (row["id"], row["user_id"], _b64(context), ciphertext)
            for row, context, ciphertext in zip(rows, contexts, ciphertexts, strict=True)
        ],
    )


async def _encrypted(
    vault: aiohttp.ClientSession, stack: LocalStack, texts: Sequence[str], contexts: Sequence[bytes]
) -> list[str]:
    items = [
        {"plaintext": _b64(text.encode("ascii")), "context": _b64(context)}
        for text, context in zip(texts, contexts, strict=True)
    ]
    path = f"{stack.names.transit}/encrypt/{stack.names.type_key(_TYPE)}"
    async with vault.post(path, json={"batch_input": items}) as answer:
        results = (await answer.json())["data"]["batch_results"]
    return [str(result["ciphertext"]) for result in results]


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
