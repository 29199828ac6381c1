"""Invariant 5: no decrypt without authorisation and a durable record, on whichever way a decryption is asked for."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.composition import Runtime, close_process_runtime, configure
from service.errors import CredentialsError, DatabaseNotReady, DatabaseUnavailable
from service.memory.plaintext import Plaintext
from service.modules.credential_service import get_decrypted_alpaca_credential
from tests.doubles.alpaca import AlpacaDouble
from tests.evidence import AuditLog
from tests.security.watched_vault import WatchedVault
from tests.stored import Stored, opened, owner, some_user, store, update
from tests.support import Stack, canary
from tests.written import Connection

DECRYPT = "/v1/transit/decrypt/"


async def _open(runtime: Runtime, stored: Stored) -> None:
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def _validate(runtime: Runtime, stored: Stored) -> None:
    await runtime.validator.validate_stored(stored.access, stored.id)


async def _reseal(runtime: Runtime, stored: Stored) -> None:
    with Plaintext.copy_of(canary()) as key:
        await runtime.writer.update(
            stored.access, stored.id, api_key=key, secret_key=None, is_active=None, if_match=None
        )


async def _roll_back(runtime: Runtime, stored: Stored) -> None:
    await runtime.writer.rollback(stored.access, stored.id, if_match=None)


async def _hand_off(runtime: Runtime, stored: Stored) -> None:
    (await runtime.hand_offs.hand_off(stored.access, stored.id, 30)).wrapped.token.wipe()


WAYS: dict[str, Callable[[Runtime, Stored], Awaitable[None]]] = {
    "open": _open,
    "validate": _validate,
    "update-of-one-key": _reseal,
    "rollback": _roll_back,
    "handoff": _hand_off,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.fixture
async def stored(runtime: Runtime) -> Stored:
    return await update(runtime, await store(runtime))


async def events(conn: Connection, batch_id: str) -> list[tuple[str, str | None, str]]:
    """Outcome, reason and user of the committed events of a batch, oldest first."""
    rows = await conn.fetch(
        "SELECT outcome, reason, acting_user FROM credential_events WHERE batch_id = $1 ORDER BY at, id", UUID(batch_id)
    )
    return [(row["outcome"], row["reason"], row["acting_user"]) for row in rows]


@asynccontextmanager
async def watched_runtime(stack: Stack, conn: Connection) -> AsyncIterator[tuple[Runtime, list[Any]]]:
    """A runtime, and for each request to decrypt what another connection saw committed when it reached Vault."""
    seen: list[Any] = []

    async def watch(path: str, batch_id: str) -> None:
        if path.startswith(DECRYPT):
            seen.append(await events(conn, batch_id))

    async with AlpacaDouble() as alpaca, WatchedVault(stack.vault_addr, watch) as vault:
        settings = stack.settings(vault_addr=vault.url, alpaca_base_url=alpaca.url, oidc_issuer=None)
        async with Runtime.open(settings) as runtime:
            yield runtime, seen


@ways
async def test_the_event_is_committed_before_transit_is_asked(
    stack: Stack, owner_conn: Connection, stored: Stored, way: Callable[[Runtime, Stored], Awaitable[None]]
) -> None:
    async with watched_runtime(stack, owner_conn) as (runtime, seen):
        await way(runtime, stored)
    assert seen == [[("granted", None, stored.user_id)]]


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_the_event_is_committed_first_also_over_the_callers_connection(
    stack: Stack, owner_conn: Connection, runtime_conn: Connection, stored: Stored, in_transaction: bool
) -> None:
    async with watched_runtime(stack, owner_conn) as (runtime, seen):
        transaction = runtime_conn.transaction()
        if in_transaction:
            await transaction.start()
        async with runtime.opener.reveal(stored.access, stored.id, conn=runtime_conn) as keys:
            assert keys == stored.keys
        if in_transaction:
            await transaction.rollback()
    assert seen == [[("granted", None, stored.user_id)]]


async def test_vaults_audit_log_has_no_decryption_without_a_granted_event_and_the_other_way_round(
    stack: Stack, runtime: Runtime, owner_conn: Connection, stored: Stored
) -> None:
    log = AuditLog(stack)
    for way in (_open, _reseal, _roll_back):
        await way(runtime, stored)
    with pytest.raises(CredentialsError):
        await opened(runtime, stored.id, some_user("stranger"))
    decryptions = log.decryptions()
    assert len(decryptions) == len(set(decryptions)) == 3
    assert [await events(owner_conn, batch_id) for batch_id in decryptions] == [[("granted", None, stored.user_id)]] * 3
    granted = await owner_conn.fetch(
        "SELECT batch_id FROM credential_events WHERE acting_user = $1 AND outcome = 'granted'", stored.user_id
    )
    assert {str(row["batch_id"]) for row in granted} == set(decryptions)


async def no_decryption(stack: Stack, settings: dict[str, Any], stored: Stored, error: type[CredentialsError]) -> None:
    log = AuditLog(stack)
    async with Runtime.open(stack.settings(**settings)) as unlucky:
        with pytest.raises(error):
            await opened(unlucky, stored.id, stored.user_id)
    assert log.decryptions() == []


async def test_where_postgres_cannot_be_reached_nothing_is_decrypted(stack: Stack, stored: Stored) -> None:
    unreachable = {"database_url": "postgresql://u:p@127.0.0.1:1/d"}
    await no_decryption(stack, unreachable, stored, DatabaseUnavailable)


async def test_where_the_event_cannot_be_inserted_nothing_is_decrypted(
    stack: Stack, owner_conn: Connection, stored: Stored
) -> None:
    login = f"reader_{uuid4().hex[:8]}"
    await owner_conn.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'reads'")
    await owner_conn.execute(f"GRANT SELECT ON credentials TO {login}")
    try:
        host = stack.runtime_url.rpartition("@")[2]
        reading = {"database_url": f"postgresql://{login}:reads@{host}"}
        await no_decryption(stack, reading, stored, DatabaseNotReady)
    finally:
        await owner_conn.execute(f"DROP OWNED BY {login}")
        await owner_conn.execute(f"DROP ROLE {login}")


async def test_where_the_events_commit_fails_nothing_is_decrypted(
    stack: Stack, owner_conn: Connection, stored: Stored
) -> None:
    """The statement succeeds, and only its commit does not: a deferred trigger refuses it at the last moment."""
    await owner_conn.execute(
        "CREATE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'not committed'; END $$"
    )
    await owner_conn.execute(
        "CREATE CONSTRAINT TRIGGER refuse_commit AFTER INSERT ON credential_events DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW WHEN (NEW.acting_user = '{stored.user_id}') EXECUTE FUNCTION refuse_commit()"
    )
    try:
        await no_decryption(stack, {}, stored, DatabaseUnavailable)
    finally:
        await owner_conn.execute("DROP FUNCTION refuse_commit() CASCADE")
    count = "SELECT count(*) FROM credential_events WHERE acting_user = $1 AND action = 'open'"
    assert await owner_conn.fetchval(count, stored.user_id) == 0


async def test_a_denial_is_recorded_and_reaches_neither_kv_nor_transit(
    stack: Stack, runtime: Runtime, owner_conn: Connection, runtime_conn: Connection, stored: Stored
) -> None:
    polygon = await store(runtime, stored.user_id, "polygon")
    disabled = await store(runtime, stored.user_id)
    await owner_conn.execute("UPDATE credentials SET is_active = false WHERE id = $1", disabled.id)
    stranger = some_user("stranger")
    configure(stack.settings())
    log = AuditLog(stack)
    cases: list[tuple[object, str, str]] = [
        (stored.id, stranger, "not_owner"),
        (uuid4(), stranger, "not_found"),
        (polygon.id, stored.user_id, "wrong_type"),
        (disabled.id, stored.user_id, "inactive"),
        ("not-a-uuid", stranger, "not_a_uuid"),
    ]
    for credential_id, user, reason in cases:
        with pytest.raises(ValueError):
            async with get_decrypted_alpaca_credential(runtime_conn, credential_id, user):  # type: ignore[arg-type]  # one of each kind
                pytest.fail("it opened")
        row = await owner_conn.fetchrow(
            "SELECT * FROM credential_events WHERE acting_user = $1 ORDER BY at DESC, id DESC LIMIT 1", user
        )
        assert row is not None
        assert (row["action"], row["outcome"], row["reason"]) == ("open", "denied", reason)
        assert row["credential_id"] == (credential_id if isinstance(credential_id, UUID) else None)
        assert row["actor"] == "library"
    asked = [entry for entry in log.entries() if entry["request"]["path"].startswith(("transit/", "credentials/"))]
    # A service that other tests have started seals events meanwhile, by the rotator's login.
    names = [entry["auth"].get("metadata", {}).get("role_name") for entry in asked]
    assert set(names) <= {"credentials-rotator"}
    await close_process_runtime()
    configure(None)


async def test_a_decryption_that_fails_after_it_was_granted_is_a_second_event_of_the_same_batch(
    stack: Stack, runtime: Runtime, owner_conn: Connection, stored: Stored
) -> None:
    await owner_conn.execute("UPDATE credentials SET binding = sha256(binding) WHERE id = $1", stored.id)
    log = AuditLog(stack)
    with pytest.raises(CredentialsError):
        await opened(runtime, stored.id, stored.user_id)
    (batch_id,) = log.decryptions()
    assert await events(owner_conn, batch_id) == [
        ("granted", None, stored.user_id),
        ("failed", "ciphertext_rejected", stored.user_id),
    ]


async def test_a_service_that_vault_refuses_to_decrypt_for_leaves_a_grant_and_a_failure(
    stack: Stack, owner_conn: Connection, stored: Stored
) -> None:
    """A login whose policy lacks transit: the grant is on record although nothing was ever handed out."""
    policy = stack.vault("GET", "sys/policies/acl/credentials-runtime").json()["data"]["policy"]
    name = f"no-decrypt-{uuid4().hex[:8]}"
    assert stack.vault(
        "PUT", f"sys/policies/acl/{name}", {"policy": policy.replace("/decrypt/", "/nothing/")}
    ).is_success
    role = f"auth/approle/role/{name}"
    assert stack.vault("POST", role, {"token_policies": [name], "token_no_default_policy": True}).is_success
    settings = stack.settings(
        vault_role_id=stack.vault("GET", f"{role}/role-id").json()["data"]["role_id"],
        vault_secret_id=stack.vault("POST", f"{role}/secret-id", {}).json()["data"]["secret_id"],
        vault_secret_id_file=None,
    )
    async with Runtime.open(settings) as unlucky:
        with pytest.raises(CredentialsError):
            await opened(unlucky, stored.id, stored.user_id)
    stack.vault("DELETE", role)
    stack.vault("DELETE", f"sys/policies/acl/{name}")
    rows = await owner_conn.fetch(
        "SELECT outcome, reason FROM credential_events WHERE acting_user = $1 ORDER BY at DESC, id DESC LIMIT 2",
        stored.user_id,
    )
    assert [tuple(row) for row in rows] == [("failed", "vault_refused"), ("granted", None)]


async def test_an_access_for_one_user_reaches_no_other_users_credential_on_any_way(
    stack: Stack, runtime: Runtime, stored: Stored
) -> None:
    stranger = Stored(
        stored.id, stored.account_id, some_user("stranger"), stored.api_key, stored.secret_key, stored.kv_version
    )
    assert owner(stranger.user_id) == stranger.access
    log = AuditLog(stack)
    for way in WAYS.values():
        with pytest.raises(ValueError):
            await way(runtime, stranger)
    assert log.decryptions() == []
