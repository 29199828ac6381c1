"""Invariant 2: no ciphertext in Postgres. A stolen backup of the database has nothing to decrypt."""

import re

import asyncpg
import pytest

from service.composition import Runtime
from tests.conftest import backend
from tests.evidence import files_below, kv_dump, postgres_dump
from tests.stored import Stored, kv_ciphertext, store, update
from tests.support import Stack
from tests.written import Connection, Somebody, pair_of_keys

_CIPHERTEXT = re.compile(rb"vault:v\d+:([A-Za-z0-9+/]{16,}={0,2})")


@pytest.fixture
async def ciphertexts(stack: Stack, runtime: Runtime) -> list[str]:
    """The ciphertexts of a credential that has been updated and opened, and of one with an Idempotency-Key."""
    first: Stored = await store(runtime)
    second = await update(runtime, first)
    return [kv_ciphertext(stack, first.path, version) for version in (first.kv_version, second.kv_version)]


async def test_no_row_of_any_table_holds_a_ciphertext_of_kv(
    stack: Stack, ciphertexts: list[str], owner_conn: Connection
) -> None:
    dump = (await postgres_dump(owner_conn)).encode()
    for each in _all_ciphertexts(stack, ciphertexts):
        assert each not in dump
        assert each.hex().encode() not in dump


async def test_nothing_in_postgres_looks_like_a_ciphertext_of_vaults(
    runtime: Runtime, ciphertexts: list[str], owner_conn: Connection
) -> None:
    await Somebody().store(runtime, pair_of_keys(), idempotency_key="one-that-is-remembered")
    assert not _CIPHERTEXT.search((await postgres_dump(owner_conn)).encode())


@pytest.mark.skipif(backend()[0] != "local", reason="a container's files are not this user's to read")
async def test_no_file_of_postgres_holds_one_either(stack: Stack, ciphertexts: list[str]) -> None:
    """Nor does its write-ahead log, which a backup has too: the ciphertext never went there."""
    wanted = re.compile(b"|".join(re.escape(each[:40]) for each in _all_ciphertexts(stack, ciphertexts)))
    holding = [name for name, content in files_below(stack.local.state_dir / "postgres") if wanted.search(content)]
    assert holding == []


async def test_the_only_columns_of_bytes_are_the_binding_a_mac_hashes_and_signatures(owner_conn: Connection) -> None:
    """What could hide a ciphertext from a search: a new column of bytes or JSON has to be thought about here."""
    columns = await owner_conn.fetch(
        "SELECT table_name || '.' || column_name AS name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND data_type NOT IN ('text', 'uuid', 'boolean', 'integer', 'bigint', 'timestamp with time zone')"
    )
    numbers_of_transactions = {"event_seals.from_xid", "event_seals.upto_xid"} | {
        row["name"] for row in columns if row["name"].startswith("credential_events") and row["name"].endswith(".xid")
    }
    assert {row["name"] for row in columns} - numbers_of_transactions == {
        "credentials.binding",
        "idempotency_keys.body_mac",
        "event_seals.events_sha256",
        "event_seals.seal_sha256",
        "event_seals.signature",
    }


async def test_the_services_statements_are_sent_no_ciphertext(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    """What Postgres last ran on each of the service's connections, arguments being in none of them."""
    stored = await store(runtime)
    sent = await owner_conn.fetch("SELECT query FROM pg_stat_activity WHERE application_name = 'vault-credentials'")
    assert sent
    ciphertext = kv_ciphertext(stack, stored.path, stored.kv_version)
    assert not [row for row in sent if ciphertext[:30] in row["query"] or "vault:v" in row["query"]]


async def test_the_search_finds_a_ciphertext_that_is_there(
    stack: Stack, ciphertexts: list[str], owner_conn: Connection
) -> None:
    conn: Connection = await asyncpg.connect(stack.owner_url)
    try:
        async with conn.transaction():
            await conn.execute("CREATE TABLE careless (note text)")
            await conn.execute("INSERT INTO careless VALUES ($1)", ciphertexts[0])
            dump = (await postgres_dump(conn)).encode()
            assert any(each in dump for each in _all_ciphertexts(stack, ciphertexts))
            raise ZeroDivisionError  # rolls it back
    except ZeroDivisionError:
        pass
    finally:
        await conn.close()


def _all_ciphertexts(stack: Stack, known: list[str]) -> list[bytes]:
    """The payloads of every ciphertext in KV, of every version, without Vault's prefix."""
    payloads = [match[1] for each in kv_dump(stack).values() for match in _CIPHERTEXT.finditer(repr(each).encode())]
    for each in known:
        assert each.rpartition(":")[2].encode() in payloads
    return payloads
