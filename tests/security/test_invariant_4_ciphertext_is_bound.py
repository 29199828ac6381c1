"""Invariant 4: a ciphertext opens only as what it is. Whatever is changed by hand in Postgres, it fails closed."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.composition import Runtime
from service.errors import CiphertextRejected, CredentialsError
from service.memory.plaintext import Plaintext
from service.modules.records import Credential
from service.postgres.access_log import PostgresAccessLog
from tests.stored import Stored, kv_ciphertext, kv_rewrite, last_event, opened, owner, some_user, store, update
from tests.support import Stack
from tests.written import Connection, Pair

MALLORY = "mallory"


class Effect(Enum):
    """What changing one column of a row does to opening its credential."""

    CLOSED = auto()  # it opens for nobody
    NONE = auto()  # it opens right, for its owner and nobody else


@dataclass(frozen=True)
class Change:
    """What a column is set to: every value is one that the column could hold."""

    to: str
    effect: Effect
    reason: str | None = None


CLOSED, NONE = Effect.CLOSED, Effect.NONE
COLUMNS: dict[str, list[Change]] = {
    "id": [Change("gen_random_uuid()", CLOSED, "reference_mismatch")],
    "user_id": [Change("$2", CLOSED, "ciphertext_rejected")],
    "account_id": [Change("gen_random_uuid()", CLOSED, "reference_mismatch")],
    "credential_type": [Change("'polygon'", CLOSED, "reference_mismatch")],
    "is_active": [Change("false", CLOSED, "inactive")],
    "transit_mount": [Change("'transit-evil'", CLOSED, "reference_mismatch")],
    "transit_key": [
        Change("'credentials-polygon'", CLOSED, "reference_mismatch"),
        Change("'credentials-idempotency'", CLOSED, "reference_mismatch"),
        Change("'../../sys/seal'", CLOSED, "reference_mismatch"),
    ],
    "binding": [
        Change("sha256(binding)", CLOSED, "ciphertext_rejected"),
        Change("set_bit(binding, 0, 1 - get_bit(binding, 0))", CLOSED, "ciphertext_rejected"),
    ],
    "kv_mount": [Change("'credentials-evil'", CLOSED, "reference_mismatch")],
    "kv_path": [
        Change("gen_random_uuid() || '/' || id", CLOSED, "reference_mismatch"),
        Change("kv_path || '/'", CLOSED, "reference_mismatch"),
        Change("'installation'", CLOSED, "reference_mismatch"),
        Change("upper(kv_path)", CLOSED, "reference_mismatch"),
    ],
    "kv_version": [
        Change("1", CLOSED, "ciphertext_rejected"),  # the secret before the update
        Change("3", CLOSED, "ciphertext_gone"),
        Change("2147483647", CLOSED, "ciphertext_gone"),
    ],
    "secret_version": [
        Change("1", CLOSED, "ciphertext_rejected"),
        Change("3", CLOSED, "ciphertext_rejected"),
        Change("9223372036854775807", CLOSED, "ciphertext_rejected"),
    ],
    "transit_key_version": [Change("7", CLOSED, "reference_mismatch")],
    # What opening does not depend on: it is a rollback's (below), a change's, or for people to read.
    "account_type": [Change("'live'", NONE)],
    "previous_kv_version": [Change("2", NONE)],
    "previous_secret_version": [Change("2", NONE)],
    "previous_transit_key_version": [Change("7", NONE)],
    "previous_expires_at": [Change("now() - interval '1 day'", NONE)],
    "row_version": [Change("77", NONE)],
    "validation_state": [Change("'invalid'", NONE)],
    "last_validated_at": [Change("now()", NONE)],
    "last_used_at": [Change("now()", NONE)],
    "broken_since": [Change("now()", NONE)],
    "suspect_since": [Change("now()", NONE)],
    "pinned_at": [Change("now() - interval '1 year'", NONE)],
    "created_at": [Change("now() + interval '1 day'", NONE)],
    "updated_at": [Change("now() - interval '1 day'", NONE)],
}
CHANGES = [(column, change) for column, changes in COLUMNS.items() for change in changes]


@pytest.fixture
async def stored(runtime: Runtime) -> Stored:
    """A credential that has been updated once, so that every column of its row has a value to be changed."""
    return await update(runtime, await store(runtime))


async def opens_for(runtime: Runtime, credential_id: UUID, users: list[str]) -> dict[str, Pair]:
    """Who of these users can open it, and what each of them gets."""
    got = {}
    for user in users:
        try:
            got[user] = await opened(runtime, credential_id, user)
        except CredentialsError:
            continue
    return got


async def set_column(conn: Connection, stored: Stored, column: str, to: str, *arguments: Any) -> UUID:
    """Changes one column by hand; returns the row's id afterwards."""
    changed = f"UPDATE credentials SET {column} = {to} WHERE id = $1 RETURNING id"
    changed_id = await conn.fetchval(changed, stored.id, *(arguments if "$2" in to else ()))
    return UUID(str(changed_id))


async def test_the_table_of_changes_has_every_column_that_there_is(owner_conn: Connection) -> None:
    rows = await owner_conn.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND table_name = 'credentials'"
    )
    assert {row["column_name"] for row in rows} == set(COLUMNS)


@pytest.mark.parametrize(("column", "change"), CHANGES, ids=[f"{column}={change.to}" for column, change in CHANGES])
async def test_changing_a_column_by_hand_opens_it_for_nobody_it_should_not(
    runtime: Runtime, owner_conn: Connection, stored: Stored, column: str, change: Change
) -> None:
    mallory = some_user(MALLORY)
    tampered = await set_column(owner_conn, stored, column, change.to, mallory)
    got = await opens_for(runtime, tampered, [stored.user_id, mallory])
    if change.effect is NONE:
        assert got == {stored.user_id: stored.keys}
        return
    assert got == {}
    row_user = mallory if column == "user_id" else stored.user_id
    outcome = "denied" if change.reason == "inactive" else "failed"
    assert await last_event(owner_conn, row_user) == (outcome, change.reason)
    if tampered != stored.id:
        assert await opens_for(runtime, stored.id, [stored.user_id, mallory]) == {}


@pytest.mark.parametrize(
    ("column", "to"), [("previous_kv_version", "2"), ("previous_secret_version", "2"), ("binding", "sha256(binding)")]
)
async def test_changing_the_previous_pin_by_hand_rolls_back_to_nothing(
    runtime: Runtime, owner_conn: Connection, stored: Stored, column: str, to: str
) -> None:
    await set_column(owner_conn, stored, column, to)
    with pytest.raises(CredentialsError):
        await runtime.writer.rollback(stored.access, stored.id, if_match=None)
    assert await last_event(owner_conn, stored.user_id) == ("failed", "ciphertext_rejected")
    assert await owner_conn.fetchval("SELECT secret_version FROM credentials WHERE id = $1", stored.id) == 2


async def test_a_row_and_ciphertext_moved_to_another_account_do_not_open(
    stack: Stack, runtime: Runtime, owner_conn: Connection, stored: Stored
) -> None:
    account = uuid4()
    await _move(stack, stored, f"{account}/{stored.id}")
    await owner_conn.execute(
        "UPDATE credentials SET account_id = $2, kv_path = $2::uuid || '/' || id, kv_version = 1 WHERE id = $1",
        stored.id,
        account,
    )
    assert await opens_for(runtime, stored.id, [stored.user_id]) == {}
    assert await last_event(owner_conn, stored.user_id) == ("failed", "ciphertext_rejected")


async def test_a_row_given_another_type_and_its_key_does_not_open(
    runtime: Runtime, owner_conn: Connection, stored: Stored
) -> None:
    changed = "UPDATE credentials SET credential_type = 'polygon', transit_key = 'credentials-polygon' WHERE id = $1"
    await owner_conn.execute(changed, stored.id)
    assert await opens_for(runtime, stored.id, [stored.user_id]) == {}
    assert await last_event(owner_conn, stored.user_id) == ("failed", "ciphertext_rejected")


@pytest.mark.parametrize("is_same_user", [False, True], ids=["for-another-user", "for-the-same-user"])
async def test_a_copy_of_row_and_ciphertext_under_a_new_id_does_not_open_however_well_it_is_made(
    stack: Stack, runtime: Runtime, owner_conn: Connection, stored: Stored, is_same_user: bool
) -> None:
    user, copied = stored.user_id if is_same_user else some_user(MALLORY), uuid4()
    await _move(stack, stored, f"{stored.account_id}/{copied}")
    columns = [name for name in COLUMNS if name not in ("id", "user_id", "kv_path", "kv_version")]
    await owner_conn.execute(
        f"INSERT INTO credentials (id, user_id, kv_path, kv_version, {', '.join(columns)}) "
        f"SELECT $2, $3, account_id || '/' || $2::uuid, 1, {', '.join(columns)} FROM credentials WHERE id = $1",
        stored.id,
        copied,
        user,
    )
    assert await opens_for(runtime, copied, [user]) == {}
    assert await last_event(owner_conn, user) == ("failed", "ciphertext_rejected")
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def test_the_user_who_asks_counts_and_not_the_one_that_the_database_names(
    runtime: Runtime, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that grants what it should not, and hands over the row as it is."""
    row = await runtime.reader.get(stored.access, stored.id)

    async def lies(*_: object, **__: object) -> list[Credential | Exception]:
        return [row]

    monkeypatch.setattr(PostgresAccessLog, "authorise_opens", lies)
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys
    with pytest.raises(CiphertextRejected):
        await opened(runtime, stored.id, some_user(MALLORY))


async def test_two_rows_that_swap_owners_or_bindings_open_for_nobody(
    runtime: Runtime, owner_conn: Connection, stored: Stored
) -> None:
    other = await update(runtime, await store(runtime, some_user(MALLORY)))
    swap = (
        "UPDATE credentials c SET {0} = o.{0} FROM credentials o "
        "WHERE c.id = ANY($1) AND o.id = ANY($1) AND c.id <> o.id"
    )
    for column in ("user_id", "binding"):
        await owner_conn.execute(swap.format(column), [stored.id, other.id])
        for credential in (stored, other):
            assert await opens_for(runtime, credential.id, [stored.user_id, other.user_id]) == {}
        await owner_conn.execute(swap.format(column), [stored.id, other.id])
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def test_the_whole_previous_pin_put_back_by_hand_opens_what_a_rollback_would_for_its_owner_alone(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    """What this invariant cannot refuse: an old row, restored whole, while its secret is still kept in KV."""
    before = await store(runtime)
    after = await update(runtime, before)
    putting_back = "UPDATE credentials SET kv_version = 1, secret_version = 1 WHERE id = $1"
    await owner_conn.execute(putting_back, after.id)
    assert await opens_for(runtime, after.id, [after.user_id, some_user(MALLORY)]) == {after.user_id: before.keys}
    assert stack.vault("PUT", f"credentials/destroy/{after.path}", {"versions": [1]}).is_success
    # Another process, as this one may have the ciphertext in memory for some minutes.
    async with Runtime.open(stack.settings()) as another:
        assert await opens_for(another, after.id, [after.user_id]) == {}


async def test_a_row_given_to_another_user_can_neither_be_validated_nor_half_replaced_by_them(
    runtime: Runtime, owner_conn: Connection, stored: Stored
) -> None:
    """The other two ways to a decryption: the context is made of who asks, and not of what the row says."""
    mallory = some_user(MALLORY)
    await owner_conn.execute("UPDATE credentials SET user_id = $2 WHERE id = $1", stored.id, mallory)
    with pytest.raises(CredentialsError):
        await runtime.validator.validate_stored(owner(mallory), stored.id)
    with Plaintext.copy_of("AKnew") as api_key, pytest.raises(CredentialsError):
        await runtime.writer.update(
            owner(mallory), stored.id, api_key=api_key, secret_key=None, is_active=None, if_match=None
        )
    assert await last_event(owner_conn, mallory) == ("failed", "ciphertext_rejected")


async def _move(stack: Stack, stored: Stored, path: str) -> None:
    kv_rewrite(stack, path, [kv_ciphertext(stack, stored.path, stored.kv_version)])
