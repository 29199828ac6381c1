"""Rows, intents and names in KV made by hand steer neither the service's Vault token nor its cleaning up."""

from uuid import uuid4

import pytest

from service.composition import Runtime
from service.errors import CredentialsError, CredentialUnreadable, VaultRefused
from service.http_clients import vault_client
from service.modules import credential_service
from service.postgres.migrate import create_login
from service.vault.client import send
from tests.stored import opened, store
from tests.support import Stack
from tests.written import Connection, Somebody, add_intent, pair_of_keys

EVENT_COLUMNS = (
    "credential_id uuid, user_id text, account_id uuid, acting_user text, actor text, action text, outcome text, "
    "reason text, transit_key_version int, batch_id uuid, request_id text"
)
TO_ELSEWHERE = "x/../../../auth/token/revoke-self"


async def test_a_type_that_is_a_path_does_not_lead_the_token_to_it(runtime: Runtime, owner_conn: Connection) -> None:
    one = await store(runtime)
    await owner_conn.execute(
        "UPDATE credentials SET credential_type = $2, transit_key = 'credentials-' || $2 WHERE id = $1",
        one.id,
        TO_ELSEWHERE,
    )
    with pytest.raises(CredentialUnreadable):
        await opened(runtime, one.id, one.user_id)
    other = await store(runtime)
    assert await opened(runtime, other.id, other.user_id) == other.keys


@pytest.mark.parametrize("path", ["a/../b", "./a", "a/b?c", "a/b#c", "a//b", "a/%2e%2e/b", "a/b\n", "", "/a", "a b"])
async def test_no_path_in_vault_is_asked_for_that_needs_quoting(stack: Stack, path: str) -> None:
    async with vault_client(stack.settings()) as http:
        with pytest.raises(VaultRefused):
            await send(http, "GET", path)


@pytest.mark.parametrize("trick", ["{path}?/{ghost}", "{path}#/{ghost}", "{account}/../{account}/{ghost}"])
async def test_an_intent_made_by_hand_removes_nothing_live(
    runtime: Runtime, owner_conn: Connection, trick: str
) -> None:
    one, ghost = await store(runtime), uuid4()
    path = trick.format(path=one.path, account=one.path.split("/")[0], ghost=ghost)
    # The table itself refuses such a path. Without that, reconciliation does.
    await owner_conn.execute("ALTER TABLE write_intents DROP CONSTRAINT write_intents_kv_path_check")
    try:
        await add_intent(owner_conn, ghost, path)
        report = await runtime.reconciler.run(apply=True)
        assert report.failed >= 1
        assert await opened(runtime, one.id, one.user_id) == one.keys
    finally:
        await owner_conn.execute("DELETE FROM write_intents WHERE credential_id = $1", ghost)
        await owner_conn.execute("ALTER TABLE write_intents ADD CHECK (kv_path ~ '^[0-9a-f-]{36}/[0-9a-f-]{36}$')")


async def test_an_intent_that_cannot_be_reconciled_is_put_off(runtime: Runtime, owner_conn: Connection) -> None:
    ghost = uuid4()
    await add_intent(owner_conn, ghost, f"{uuid4()}/{uuid4()}")
    try:
        assert (await runtime.reconciler.run(apply=True)).failed >= 1
        due = await owner_conn.fetchval(
            "SELECT due_at > now() + interval '5 minutes' FROM write_intents WHERE credential_id = $1", ghost
        )
        assert due
    finally:
        await owner_conn.execute("DELETE FROM write_intents WHERE credential_id = $1", ghost)


@pytest.mark.parametrize("table", ["credential_events", "credentials"])
async def test_a_temporary_table_on_the_callers_connection_stands_in_for_nothing(
    runtime: Runtime, runtime_conn: Connection, owner_conn: Connection, table: str
) -> None:
    one = await store(runtime)
    await owner_conn.execute("UPDATE credentials SET is_active = false WHERE id = $1", one.id)
    # Of the events the role may not even see the columns' definitions.
    columns = "LIKE public.credentials" if table == "credentials" else EVENT_COLUMNS
    await runtime_conn.execute(f"CREATE TEMP TABLE {table} ({columns})")
    try:
        if table == "credentials":
            await runtime_conn.execute(
                "INSERT INTO pg_temp.credentials SELECT * FROM public.credentials WHERE id = $1", one.id
            )
            await runtime_conn.execute("UPDATE pg_temp.credentials SET is_active = true")
        before = await owner_conn.fetchval("SELECT count(*) FROM credential_events WHERE credential_id = $1", one.id)
        with pytest.raises(ValueError, match="disabled"):
            async with runtime.opener.reveal(one.access, one.id, conn=runtime_conn):
                pytest.fail("it opened")
        after = await owner_conn.fetchval("SELECT count(*) FROM credential_events WHERE credential_id = $1", one.id)
        assert after == before + 1
    finally:
        await runtime_conn.execute(f"DROP TABLE pg_temp.{table}")


async def test_a_kept_secret_whose_expiry_was_put_off_by_hand_goes_at_once(
    runtime: Runtime, owner_conn: Connection
) -> None:
    somebody = Somebody()
    stored = await somebody.store(runtime, pair_of_keys())
    await somebody.update(runtime, stored.id, *pair_of_keys())
    await owner_conn.execute("UPDATE credentials SET previous_expires_at = 'infinity' WHERE id = $1", stored.id)
    await runtime.reconciler.run(apply=True)
    kept = await owner_conn.fetchval("SELECT previous_kv_version FROM credentials WHERE id = $1", stored.id)
    assert kept is None


async def test_a_value_that_python_cannot_hold_is_an_error_of_ours(runtime: Runtime, owner_conn: Connection) -> None:
    one = await store(runtime)
    await owner_conn.execute("UPDATE credentials SET last_validated_at = '20000-01-01' WHERE id = $1", one.id)
    try:
        with pytest.raises(CredentialsError):
            await opened(runtime, one.id, one.user_id)
    finally:
        await owner_conn.execute("DELETE FROM credentials WHERE id = $1", one.id)


async def test_a_stranger_who_tries_to_change_a_credential_is_recorded_as_one(
    runtime: Runtime, owner_conn: Connection
) -> None:
    one, stranger = await store(runtime), Somebody()
    with pytest.raises(ValueError, match="No such credential"):
        await runtime.writer.delete(stranger.access, one.id, if_match=None)
    event = await owner_conn.fetchrow(
        "SELECT user_id, outcome, reason FROM credential_events WHERE acting_user = $1", stranger.user_id
    )
    assert event is not None
    assert tuple(event) == (one.user_id, "denied", "not_owner")


async def test_names_in_kv_that_are_no_credentials_do_not_stop_the_scan(stack: Stack, runtime: Runtime) -> None:
    odd = ["credentials/data/deep/er/x", "credentials/data/[x]"]
    for path in odd:
        assert stack.vault("POST", path, {"data": {"a": "b"}, "options": {"cas": 0}}).is_success
    try:
        report = await runtime.reconciler.scan(apply=False)
        assert {"deep/", "[x]"} <= set(report.unaccounted)
    finally:
        for path in odd:
            stack.vault("DELETE", path.replace("/data/", "/metadata/"))


async def test_a_key_that_is_no_text_is_refused_by_its_fields_name(stack: Stack, runtime_conn: Connection) -> None:
    with pytest.raises(ValueError, match="secret_key: must be text"):
        await credential_service.store_credential(runtime_conn, uuid4(), "alice", "polygon", "key", None)  # type: ignore[arg-type]  # that is the point


async def test_a_logins_password_is_not_in_what_postgres_is_sent(stack: Stack, owner_conn: Connection) -> None:
    password, name = uuid4().hex, f"login_{uuid4().hex[:8]}"
    await create_login(stack.owner_url, name=name, password=password, member_of="credentials_runtime")
    try:
        written = await owner_conn.fetchval("SELECT format('%s', rolname) FROM pg_roles WHERE rolname = $1", name)
        assert written == name
        logs = stack.local.state_dir.rglob("*.log")
        assert not [log for log in logs if password in log.read_text(errors="replace")]
    finally:
        await owner_conn.execute(f"DROP ROLE {name}")
