"""Stored credentials for tests: with random keys, a user of their own, and hands that reach into both stores."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from service.composition import Runtime
from service.memory.plaintext import Plaintext
from service.modules.credential_writer import NewCredential
from service.modules.records import OwnerAccess
from tests.support import Stack, canary
from tests.written import Connection, Pair


def some_user(name: str = "user") -> str:
    """A user that no other test knows."""
    return f"{name}-{uuid4().hex[:12]}"


def owner(user_id: str) -> OwnerAccess:
    return OwnerAccess(user_id=user_id, actor="test")


@dataclass(frozen=True)
class Stored:
    """A credential as it was last stored or updated here."""

    id: UUID
    account_id: UUID
    user_id: str
    api_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    kv_version: int

    @property
    def access(self) -> OwnerAccess:
        return owner(self.user_id)

    @property
    def keys(self) -> Pair:
        return self.api_key, self.secret_key

    @property
    def path(self) -> str:
        return f"{self.account_id}/{self.id}"


async def store(runtime: Runtime, user_id: str | None = None, credential_type: str = "alpaca") -> Stored:
    """Stores a credential of random keys."""
    user_id, account_id, api_key, secret_key = user_id or some_user(), uuid4(), canary("AK"), canary("SK")
    with Plaintext.copy_of(api_key) as api, Plaintext.copy_of(secret_key) as secret:
        made = await runtime.writer.store(owner(user_id), NewCredential(account_id, credential_type, api, secret))
    return Stored(made.id, account_id, user_id, api_key, secret_key, made.reference.kv_version)


async def update(runtime: Runtime, before: Stored) -> Stored:
    """Gives it new random keys."""
    api_key, secret_key = canary("AK"), canary("SK")
    with Plaintext.copy_of(api_key) as api, Plaintext.copy_of(secret_key) as secret:
        made = await runtime.writer.update(
            before.access, before.id, api_key=api, secret_key=secret, is_active=None, if_match=None
        )
    return Stored(before.id, before.account_id, before.user_id, api_key, secret_key, made.reference.kv_version)


async def opened(runtime: Runtime, credential_id: UUID, user_id: str) -> Pair:
    """Opens it as this user; copies of the two keys. Raises as `CredentialOpener.reveal`."""
    async with runtime.opener.reveal(owner(user_id), credential_id) as (api_key, secret_key):
        return str(api_key), str(secret_key)


async def last_event(conn: Connection, user_id: str) -> tuple[str, str | None]:
    """Outcome and reason of the newest event that was done as this user."""
    row = await conn.fetchrow(
        "SELECT outcome, reason FROM credential_events WHERE acting_user = $1 ORDER BY at DESC, id DESC LIMIT 1",
        user_id,
    )
    assert row is not None, "there is no event"
    return row["outcome"], row["reason"]


def kv_ciphertext(stack: Stack, path: str, version: int) -> str:
    """What KV holds at a version of a path."""
    answer = stack.vault("GET", f"credentials/data/{path}?version={version}").json()
    return str(answer["data"]["data"]["ciphertext"])


def kv_rewrite(stack: Stack, path: str, versions: Iterable[Any]) -> None:
    """Makes a path anew with these ciphertexts as its versions, as somebody could who may write KV."""
    stack.vault("DELETE", f"credentials/metadata/{path}")
    for cas, ciphertext in enumerate(versions):
        kv_append(stack, path, {"ciphertext": ciphertext}, cas=cas)


def kv_append(stack: Stack, path: str, data: Any, *, cas: int) -> None:
    """Writes the version after `cas`."""
    answer = stack.vault("POST", f"credentials/data/{path}", {"data": data, "options": {"cas": cas}})
    assert answer.is_success, answer.status_code
