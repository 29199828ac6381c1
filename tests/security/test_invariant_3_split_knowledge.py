"""Invariant 3: split knowledge. All of Vault without the row's binding opens nothing, and the row can go."""

import base64
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from service.composition import Runtime
from service.modules.derivation_context import derivation_context
from tests.evidence import found, kv_dump, postgres_dump
from tests.stored import Stored, kv_ciphertext, store, update
from tests.support import Stack
from tests.written import Connection

KEY = "credentials-alpaca"


@dataclass
class Kept:
    """A stored credential, and what somebody kept of it: the ciphertext and the whole row."""

    stored: Stored
    ciphertext: str
    row: dict[str, Any]

    def context(self, binding: bytes) -> bytes:
        return derivation_context(
            binding=binding,
            user_id=self.row["user_id"],
            account_id=self.row["account_id"],
            credential_id=self.row["id"],
            secret_version=self.row["secret_version"],
            credential_type=self.row["credential_type"],
        )


@pytest.fixture
async def kept(stack: Stack, runtime: Runtime, owner_conn: Connection) -> Kept:
    stored = await store(runtime)
    row = await owner_conn.fetchrow("SELECT * FROM credentials WHERE id = $1", stored.id)
    assert row is not None
    return Kept(stored, kv_ciphertext(stack, stored.path, stored.kv_version), dict(row))


def as_root(stack: Stack, ciphertext: str, context: bytes | None) -> str | None:
    """The plaintext, if Vault hands it to its most powerful token."""
    body = {"ciphertext": ciphertext}
    if context is not None:
        body["context"] = base64.b64encode(context).decode()
    answer = stack.vault("POST", f"transit/decrypt/{KEY}", body)
    return base64.b64decode(answer.json()["data"]["plaintext"]).decode() if answer.is_success else None


def guesses(kept: Kept) -> Iterator[bytes | None]:
    """Every context that can be made without the binding."""
    yield None
    yield b""
    right = kept.context(kept.row["binding"])
    for binding in (bytes(32), b"\xff" * 32, secrets.token_bytes(32), kept.row["id"].bytes * 2):
        yield kept.context(binding)
    yield right[:8] + right[40:]
    yield right[40:]


async def test_vaults_root_token_without_the_binding_decrypts_nothing(stack: Stack, kept: Kept) -> None:
    assert as_root(stack, kept.ciphertext, kept.context(kept.row["binding"])) == "\n".join(kept.stored.keys)
    for context in guesses(kept):
        assert as_root(stack, kept.ciphertext, context) is None


async def test_the_binding_is_nowhere_in_vault(stack: Stack, kept: Kept) -> None:
    binding: bytes = kept.row["binding"]
    contents = repr(kv_dump(stack)).encode()
    for form in (binding, binding.hex().encode(), base64.b64encode(binding)):
        assert form not in contents
    assert found([kept.row["user_id"]], {"KV": contents}) == []


async def test_the_keys_are_derived_and_do_not_leave_vault(stack: Stack) -> None:
    for name in (KEY, "credentials-polygon"):
        key = stack.vault("GET", f"transit/keys/{name}").json()["data"]
        assert key["derived"] is True
        assert key["type"] == "aes256-gcm96"
        assert not key["exportable"]
        assert not key["allow_plaintext_backup"]
        assert not key["deletion_allowed"]
        for path in (f"transit/export/encryption-key/{name}", f"transit/backup/{name}"):
            assert not stack.vault("GET", path).is_success
    encrypted = stack.vault("POST", f"transit/encrypt/{KEY}", {"plaintext": base64.b64encode(b"x").decode()})
    assert not encrypted.is_success, "it encrypts without a context, so the context is not needed to decrypt either"


async def test_once_the_row_is_deleted_the_kept_ciphertext_does_not_open_with_all_that_is_left(
    stack: Stack, runtime: Runtime, owner_conn: Connection, kept: Kept
) -> None:
    binding: bytes = kept.row["binding"]
    assert binding.hex() in await postgres_dump(owner_conn)
    await runtime.writer.delete(kept.stored.access, kept.stored.id, if_match=None)
    assert binding.hex() not in await postgres_dump(owner_conn), "some table still has it"
    for context in guesses(kept):
        assert as_root(stack, kept.ciphertext, context) is None
    # The one thing that is missing is the binding: with it, it would still open.
    assert as_root(stack, kept.ciphertext, kept.context(binding)) is not None


async def test_every_credential_has_a_binding_of_its_own(runtime: Runtime, owner_conn: Connection) -> None:
    first = await store(runtime)
    for _ in range(10):
        await store(runtime, first.user_id)
    rows = await owner_conn.fetch("SELECT binding FROM credentials WHERE user_id = $1", first.user_id)
    bindings = {row["binding"] for row in rows}
    assert len(bindings) == 11
    assert {len(binding) for binding in bindings} == {32}


async def test_a_binding_is_of_its_credential_and_of_no_secret_of_the_same_user(
    stack: Stack, runtime: Runtime, kept: Kept, owner_conn: Connection
) -> None:
    """Knowing the binding of one credential helps with no other one."""
    other = await store(runtime, kept.stored.user_id)
    row = await owner_conn.fetchrow("SELECT * FROM credentials WHERE id = $1", other.id)
    assert row is not None
    others = Kept(other, kv_ciphertext(stack, other.path, other.kv_version), dict(row))
    assert as_root(stack, others.ciphertext, others.context(kept.row["binding"])) is None


async def test_the_updated_secret_needs_the_binding_as_well(stack: Stack, runtime: Runtime, kept: Kept) -> None:
    after = await update(runtime, kept.stored)
    ciphertext = kv_ciphertext(stack, after.path, after.kv_version)
    renewed = Kept(after, ciphertext, {**kept.row, "secret_version": kept.row["secret_version"] + 1})
    for context in guesses(renewed):
        assert as_root(stack, ciphertext, context) is None
    assert as_root(stack, ciphertext, renewed.context(kept.row["binding"])) == "\n".join(after.keys)
