"""The library's functions against real servers: opening, storing, and what is left when the block has ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.composition import Runtime, close_process_runtime, configure
from service.errors import CiphertextGone, CredentialInactive, CredentialNotFound, InvalidInput, WrongCredentialType
from service.memory.plaintext import MASK
from service.modules.credential_service import (
    get_decrypted_alpaca_credential,
    get_decrypted_credential,
    store_credential,
    validate_alpaca_credentials,
)
from tests.doubles.alpaca import LIVE_NUMBER, AlpacaDouble
from tests.stored import Stored, last_event, some_user, store
from tests.support import Stack, canary
from tests.written import Connection


@pytest.fixture(autouse=True)
async def configured(stack: Stack) -> AsyncIterator[None]:
    """The library's own runtime, on the shared stack, closed after each test."""
    configure(stack.settings())
    yield
    await close_process_runtime()
    configure(None)


@pytest.fixture
async def conn(runtime_conn: Connection) -> Connection:
    """A caller's connection, as the service's role."""
    return runtime_conn


@pytest.fixture
async def stored(runtime: Runtime) -> Stored:
    return await store(runtime)


async def test_the_owner_gets_both_keys_as_strings(conn: Connection, stored: Stored) -> None:
    async with get_decrypted_alpaca_credential(conn, str(stored.id), stored.user_id) as (api_key, secret_key):
        assert (api_key, secret_key) == stored.keys
        assert isinstance(api_key, str)
        assert f"Bearer {api_key}" == "Bearer " + stored.api_key


async def test_an_id_as_asyncpg_gives_it_opens_as_well(conn: Connection, stored: Stored) -> None:
    row = await conn.fetchrow("SELECT id, account_id FROM credentials WHERE id = $1", stored.id)
    assert row is not None
    async with get_decrypted_credential(conn, row["id"], stored.user_id) as keys:
        assert keys == stored.keys
    again = await store_credential(conn, row["account_id"], stored.user_id, "alpaca", canary(), canary())
    assert UUID(again) != stored.id


async def test_a_polygon_credential_opens_by_the_general_function_with_an_empty_secret(conn: Connection) -> None:
    user, api_key = some_user(), canary("PG")
    made = await store_credential(conn, str(uuid4()), user, "polygon", api_key, "")
    async with get_decrypted_credential(conn, made, user) as keys:
        assert keys == (api_key, "")
    with pytest.raises(WrongCredentialType):
        async with get_decrypted_alpaca_credential(conn, made, user):
            pytest.fail("it opened as an Alpaca credential")


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_every_refusal_is_a_value_error_and_is_recorded_as_denied(
    conn: Connection, owner_conn: Connection, stored: Stored, in_transaction: bool
) -> None:
    stranger = some_user("stranger")
    polygon = await store_credential(conn, str(uuid4()), stored.user_id, "polygon", canary(), "")
    disabled = await store_credential(conn, str(uuid4()), stored.user_id, "alpaca", canary(), canary())
    await owner_conn.execute("UPDATE credentials SET is_active = false WHERE id = $1", UUID(disabled))
    cases: list[tuple[str, str, type[ValueError], str]] = [
        (str(stored.id), stranger, CredentialNotFound, "not_owner"),
        (str(uuid4()), stored.user_id, CredentialNotFound, "not_found"),
        (polygon, stored.user_id, WrongCredentialType, "wrong_type"),
        (disabled, stored.user_id, CredentialInactive, "inactive"),
        ("not-a-uuid", stored.user_id, InvalidInput, "not_a_uuid"),
    ]
    for credential_id, user, expected, reason in cases:
        transaction = conn.transaction() if in_transaction else contextlib.nullcontext()
        with pytest.raises(ValueError) as refused:
            async with transaction, get_decrypted_alpaca_credential(conn, credential_id, user):
                pytest.fail("it opened")
        assert type(refused.value) is expected
        assert credential_id not in str(refused.value)
        assert await last_event(owner_conn, user) == ("denied", reason)


async def test_a_rollback_of_the_callers_transaction_loses_no_record(
    conn: Connection, owner_conn: Connection, stored: Stored
) -> None:
    transaction = conn.transaction()
    await transaction.start()
    async with get_decrypted_alpaca_credential(conn, str(stored.id), stored.user_id) as keys:
        assert keys == stored.keys
    await transaction.rollback()
    assert await last_event(owner_conn, stored.user_id) == ("granted", None)


async def test_a_row_that_is_not_committed_yet_is_not_found_within_its_transaction(conn: Connection) -> None:
    user, api_key, secret_key = some_user(), canary(), canary()
    async with conn.transaction():
        made = await store_credential(conn, str(uuid4()), user, "alpaca", api_key, secret_key)
        with pytest.raises(CredentialNotFound):
            async with get_decrypted_alpaca_credential(conn, made, user):
                pytest.fail("it opened")
    async with get_decrypted_alpaca_credential(conn, made, user) as keys:
        assert keys == (api_key, secret_key)


async def test_a_connection_that_is_in_no_transaction_is_the_one_that_authorises(
    stack: Stack, stored: Stored, owner_conn: Connection
) -> None:
    """The event's own transaction tells who wrote it: its backend was the caller's connection."""
    calling = await asyncpg.connect(stack.runtime_url, server_settings={"application_name": "caller"})
    try:
        await calling.execute("SET default_transaction_read_only = on")
        with pytest.raises(Exception, match="Postgres could not be reached, or could not do its work"):
            async with get_decrypted_alpaca_credential(calling, str(stored.id), stored.user_id):
                pytest.fail("it authorised over another connection")
        await calling.execute("SET default_transaction_read_only = off")
        async with get_decrypted_alpaca_credential(calling, str(stored.id), stored.user_id) as keys:
            assert keys == stored.keys
            assert not calling.is_in_transaction()
            assert await calling.fetchval("SELECT 1") == 1
    finally:
        await calling.close()
    assert await last_event(owner_conn, stored.user_id) == ("granted", None)


async def test_storing_commits_with_the_callers_transaction(conn: Connection, owner_conn: Connection) -> None:
    user, api_key, secret_key = some_user(), canary(), canary()
    async with conn.transaction():
        made = UUID(await store_credential(conn, str(uuid4()), user, "alpaca", api_key, secret_key))
        assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE id = $1", made) == 0
        assert await owner_conn.fetchval("SELECT count(*) FROM write_intents WHERE credential_id = $1", made) == 1
    assert await owner_conn.fetchval("SELECT count(*) FROM write_intents WHERE credential_id = $1", made) == 0
    assert await last_event(owner_conn, user) == ("done", None)
    async with get_decrypted_alpaca_credential(conn, made, user) as keys:
        assert keys == (api_key, secret_key)


async def test_a_store_that_the_caller_rolls_back_has_never_been_and_reconciliation_removes_its_ciphertext(
    stack: Stack, runtime: Runtime, conn: Connection, owner_conn: Connection
) -> None:
    user, account = some_user(), uuid4()
    transaction = conn.transaction()
    await transaction.start()
    made = UUID(await store_credential(conn, str(account), user, "alpaca", canary(), canary()))
    await transaction.rollback()
    with pytest.raises(CredentialNotFound):
        async with get_decrypted_alpaca_credential(conn, made, user):
            pytest.fail("it opened")
    path = f"credentials/metadata/{account}/{made}"
    assert stack.vault("GET", path).is_success
    await owner_conn.execute("UPDATE write_intents SET due_at = now() WHERE credential_id = $1", made)
    await runtime.reconciler.run(apply=True)
    assert stack.vault("GET", path).status_code == 404
    assert await owner_conn.fetchval("SELECT count(*) FROM write_intents WHERE credential_id = $1", made) == 0


async def test_a_store_over_a_connection_in_no_transaction_is_there_at_once(
    conn: Connection, owner_conn: Connection
) -> None:
    made = UUID(await store_credential(conn, str(uuid4()), some_user(), "alpaca", canary(), canary()))
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE id = $1", made) == 1


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("account_id", ("not-a-uuid", "u", "alpaca", "k", "s")),
        ("user_id", (str(uuid4()), "u\0", "alpaca", "k", "s")),
        ("user_id", (str(uuid4()), "", "alpaca", "k", "s")),
        ("credential_type", (str(uuid4()), "u", "binance", "k", "s")),
        ("api_key", (str(uuid4()), "u", "alpaca", "", "s")),
        ("api_key", (str(uuid4()), "u", "alpaca", "k\n", "s")),
        ("secret_key", (str(uuid4()), "u", "alpaca", "k", "")),
        ("secret_key", (str(uuid4()), "u", "polygon", "k", "é")),
    ],
)
async def test_what_cannot_be_stored_is_refused_by_the_name_of_its_field(
    conn: Connection, owner_conn: Connection, field: str, arguments: tuple[str, str, str, str, str]
) -> None:
    before = await owner_conn.fetchval("SELECT count(*) FROM credentials")
    with pytest.raises(ValueError, match=f"^{field}: "):
        await store_credential(conn, *arguments)
    assert await owner_conn.fetchval("SELECT count(*) FROM credentials") == before


async def test_kept_references_read_as_nuls_when_the_block_has_ended(conn: Connection, stored: Stored) -> None:
    async with get_decrypted_alpaca_credential(conn, str(stored.id), stored.user_id) as keys:
        kept = [*keys]
        assert tuple(kept) == stored.keys
    assert [each.encode() for each in kept] == [bytes(len(key)) for key in stored.keys]


async def test_kept_references_read_as_nuls_after_an_exception_in_the_block(conn: Connection, stored: Stored) -> None:
    kept: list[str] = []

    async def use() -> None:
        async with get_decrypted_alpaca_credential(conn, str(stored.id), stored.user_id) as keys:
            kept.extend(keys)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    assert [each.encode() for each in kept] == [bytes(len(key)) for key in stored.keys]


async def test_kept_references_read_as_nuls_after_a_cancellation_in_the_block(conn: Connection, stored: Stored) -> None:
    kept: list[str] = []
    inside = asyncio.Event()

    async def use() -> None:
        async with get_decrypted_alpaca_credential(conn, str(stored.id), stored.user_id) as keys:
            kept.extend(keys)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each.encode() for each in kept] == [bytes(len(key)) for key in stored.keys]


async def test_the_keys_are_masked_where_they_are_shown(conn: Connection, stored: Stored) -> None:
    async with get_decrypted_alpaca_credential(conn, str(stored.id), stored.user_id) as keys:
        shown = repr(keys) + repr({"key": keys[0]}) + f"{keys!r}"
    assert MASK in shown
    for key in stored.keys:
        assert key not in shown


async def test_a_credential_whose_ciphertext_is_gone_does_not_open_and_says_so_in_the_events(
    stack: Stack, conn: Connection, owner_conn: Connection, stored: Stored
) -> None:
    stack.vault("DELETE", f"credentials/metadata/{stored.path}")
    with pytest.raises(CiphertextGone):
        async with get_decrypted_alpaca_credential(conn, str(stored.id), stored.user_id):
            pytest.fail("it opened")
    assert await last_event(owner_conn, stored.user_id) == ("failed", "ciphertext_gone")


async def test_many_opens_at_once_each_get_their_own_keys(runtime: Runtime, stack: Stack) -> None:
    credentials = [await store(runtime) for _ in range(10)]

    async def use(each: Stored) -> bool:
        own = await asyncpg.connect(stack.runtime_url)
        try:
            async with get_decrypted_alpaca_credential(own, str(each.id), each.user_id) as keys:
                await asyncio.sleep(0)
                return tuple(keys) == each.keys
        finally:
            await own.close()

    assert all(await asyncio.gather(*(use(each) for each in credentials * 3)))


async def test_alpaca_is_asked_about_given_keys(stack: Stack) -> None:
    paper, live, wrong = ((canary("PK"), canary()) for _ in range(3))
    async with AlpacaDouble() as alpaca:
        alpaca.open_account(*paper)
        alpaca.open_account(*live, LIVE_NUMBER)
        configure(stack.settings(alpaca_base_url=alpaca.url))
        try:
            assert await validate_alpaca_credentials(*paper) == (True, "paper")
            assert await validate_alpaca_credentials(*live) == (True, "live")
            assert await validate_alpaca_credentials(*wrong) == (False, None)
        finally:
            await close_process_runtime()
