"""What tests of writing share: somebody's credentials, what opens, and what Vault and Postgres hold of them."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from service.composition import Runtime
from service.memory.plaintext import Plaintext
from service.modules.credential_writer import NewCredential
from service.modules.records import Credential, OwnerAccess
from tests.support import Stack, canary

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pair = tuple[str, str]


def pair_of_keys() -> Pair:
    """Two random secrets."""
    return canary("PK"), canary("SK")


@dataclass(frozen=True)
class Somebody:
    """A user with an account, who nobody else is."""

    user_id: str = field(default_factory=lambda: f"user-{uuid4()}")
    account_id: UUID = field(default_factory=uuid4)

    @property
    def access(self) -> OwnerAccess:
        return OwnerAccess(user_id=self.user_id, actor="test")

    async def store(self, runtime: Runtime, keys: Pair, credential_type: str = "alpaca", **given: Any) -> Credential:
        """Stores a credential of these keys."""
        with Plaintext.copy_of(keys[0]) as api_key, Plaintext.copy_of(keys[1]) as secret_key:
            new = NewCredential(self.account_id, credential_type, api_key, secret_key)
            return await runtime.writer.store(self.access, new, **given)

    async def update(
        self,
        runtime: Runtime,
        credential_id: UUID,
        api_key: str | None = None,
        secret_key: str | None = None,
        *,
        is_active: bool | None = None,
        if_match: frozenset[int] | None = None,
    ) -> Credential:
        """Changes what is given."""
        api, secret = (None if key is None else Plaintext.copy_of(key) for key in (api_key, secret_key))
        return await runtime.writer.update(
            self.access, credential_id, api_key=api, secret_key=secret, is_active=is_active, if_match=if_match
        )

    async def opens(self, runtime: Runtime, credential_id: UUID) -> Pair:
        """The two keys, as plain strings."""
        async with runtime.opener.reveal(self.access, credential_id) as (api_key, secret_key):
            return "".join(api_key), "".join(secret_key)

    async def row_ids(self, conn: Connection) -> list[UUID]:
        """The ids of this user's rows, oldest first."""
        rows = await conn.fetch("SELECT id FROM credentials WHERE user_id = $1 ORDER BY created_at", self.user_id)
        return [row["id"] for row in rows]

    async def intents(self, conn: Connection) -> int:
        """How many intents there are for paths of the account."""
        found = await conn.fetchval("SELECT count(*) FROM write_intents WHERE kv_path LIKE $1", f"{self.account_id}/%")
        return int(found)

    async def make_intents_due(self, conn: Connection) -> None:
        """As if the time that a write may take had passed."""
        await conn.execute(
            "UPDATE write_intents SET due_at = now() - interval '1 second' WHERE kv_path LIKE $1",
            f"{self.account_id}/%",
        )

    def paths(self, stack: Stack) -> set[str]:
        """What KV has below the account."""
        found = stack.vault("LIST", f"credentials/metadata/{self.account_id}/")
        return set(found.json()["data"]["keys"]) if found.is_success else set()


def live_versions(stack: Stack, kv_path: str) -> set[int]:
    """The versions of a KV path that are there."""
    found = stack.vault("GET", f"credentials/metadata/{kv_path}")
    if not found.is_success:
        return set()
    versions = found.json()["data"]["versions"]
    return {int(number) for number, one in versions.items() if not one["destroyed"] and not one["deletion_time"]}


async def assert_agree(stack: Stack, conn: Connection, credential_id: UUID) -> None:
    """KV holds just what the row pins, under the pinned key version, and says so in its custom metadata."""
    row = await conn.fetchrow("SELECT * FROM credentials WHERE id = $1", credential_id)
    assert row is not None
    pinned = {row["kv_version"], row["previous_kv_version"]} - {None}
    assert live_versions(stack, row["kv_path"]) == pinned
    told = stack.vault("GET", f"credentials/metadata/{row['kv_path']}").json()["data"]["custom_metadata"]
    assert told == {
        "credential_type": row["credential_type"],
        "transit_key": row["transit_key"],
        "transit_key_version": str(row["transit_key_version"]),
        "secret_version": str(row["secret_version"]),
    }
    ciphertext = stack.vault("GET", f"credentials/data/{row['kv_path']}?version={row['kv_version']}").json()
    assert ciphertext["data"]["data"]["ciphertext"].startswith(f"vault:v{row['transit_key_version']}:")


async def add_intent(conn: Connection, credential_id: UUID, kv_path: str, *, due: str = "now()") -> None:
    """An intent for version 1 of the path, due at once or when `due` (SQL) says."""
    await conn.execute(
        "INSERT INTO write_intents (id, credential_id, kv_path, kv_version, due_at)"
        f" VALUES (gen_random_uuid(), $1, $2, 1, {due})",
        credential_id,
        kv_path,
    )


async def leave_an_intent(stack: Stack, conn: Connection, somebody: Somebody, *, due: str = "now()") -> str:
    """What a store that crashed before its commit leaves: a KV version and its intent. Returns the path."""
    credential_id = uuid4()
    path = f"{somebody.account_id}/{credential_id}"
    body = {"data": {"ciphertext": "vault:v1:AAAA"}, "options": {"cas": 0}}
    assert stack.vault("POST", f"credentials/data/{path}", body).is_success
    await add_intent(conn, credential_id, path, due=due)
    return path
