"""Backups of a test's own stack, as an operator takes them, and restoring one of the two alone.

Vault: its raft snapshot (https://developer.hashicorp.com/vault/api-docs/system/storage/raft). Postgres: a copy of the
database's files (`CREATE DATABASE ... TEMPLATE`), which takes the original's place.
"""

import json
import time
from urllib.parse import urlsplit

import asyncpg
import httpx

from tests.databases import in_database
from tests.support import Stack

_COPY = "backup"
_MARK = "not-in-the-snapshot"


async def back_up(stack: Stack) -> bytes:
    """Both, of this moment. Returns Vault's snapshot. Nothing may be connected to the database."""
    await _copy(stack, of=_database(stack), to=_COPY)
    return _vault(stack, "GET").content


async def restore_postgres(stack: Stack) -> None:
    """To the backup. Nothing may be connected to the database."""
    await _copy(stack, of=_COPY, to=_database(stack))


def restore_vault(stack: Stack, snapshot: bytes) -> None:
    """To the snapshot; returns when it serves again."""
    # It answers before it has done it: so what is written last is gone by the time that it has.
    assert stack.vault("POST", f"credentials/data/{_MARK}", {"data": {}, "options": {"cas": 0}}).is_success
    _vault(stack, "POST", snapshot)
    give_up = time.monotonic() + 60
    while stack.vault("GET", f"credentials/data/{_MARK}").status_code != httpx.codes.NOT_FOUND:
        assert time.monotonic() < give_up, "Vault does not come back"
        if stack.vault("GET", "sys/health").status_code == httpx.codes.SERVICE_UNAVAILABLE:
            kept = json.loads((stack.local.state_dir / "init.json").read_text())
            stack.vault("PUT", "sys/unseal", {"key": kept["unseal_key"]})
        time.sleep(0.05)


def _vault(stack: Stack, method: str, snapshot: bytes | None = None) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=60) as client:
        answer = client.request(
            method,
            f"{stack.vault_addr}/v1/sys/storage/raft/snapshot",
            content=snapshot,
            headers={"X-Vault-Token": stack.root_token},
        )
    assert answer.is_success, answer.status_code
    return answer


def _database(stack: Stack) -> str:
    return urlsplit(stack.owner_url).path.removeprefix("/")


async def _copy(stack: Stack, *, of: str, to: str) -> None:
    conn = await asyncpg.connect(in_database(stack.owner_url, "postgres"))
    try:
        await conn.execute(f'DROP DATABASE IF EXISTS "{to}" WITH (FORCE)')
        await conn.execute(f'CREATE DATABASE "{to}" TEMPLATE "{of}"')
    finally:
        await conn.close()
