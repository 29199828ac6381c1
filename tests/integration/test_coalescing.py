"""Opens and stores at the same time: one statement and one request for many, and nobody's trouble is another's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from service.app import create_app
from service.composition import Runtime, close_process_runtime, configure
from service.errors import (
    Busy,
    CiphertextGone,
    CiphertextRejected,
    CredentialNotFound,
    CredentialsError,
    CredentialUnreadable,
    InvalidInput,
    VaultSealed,
)
from service.memory.plaintext import Plaintext
from service.modules.credential_service import get_decrypted_credential
from service.modules.records import OwnerAccess
from tests.doubles.alpaca import AlpacaDouble
from tests.doubles.scripted_server import json_answer
from tests.evidence import AuditLog
from tests.port_hooks import Gate, hooked_runtime
from tests.security.watched_vault import WatchedVault
from tests.stored import Stored, kv_rewrite, last_event, opened, some_user, store
from tests.support import Stack
from tests.written import Connection, Somebody, pair_of_keys

DECRYPT = "/v1/transit/decrypt/credentials-alpaca"


@asynccontextmanager
async def watched_runtime(stack: Stack, **overrides: Any) -> AsyncIterator[tuple[Runtime, list[tuple[str, str]]]]:
    """A runtime, and the paths and batch ids of its requests to Vault."""
    seen: list[tuple[str, str]] = []

    async def watch(path: str, batch_id: str) -> None:
        seen.append((path, batch_id))

    async with WatchedVault(stack.vault_addr, watch) as vault:
        settings = stack.settings(vault_addr=vault.url, oidc_issuer=None, **overrides)
        async with Runtime.open(settings) as runtime:
            yield runtime, seen


async def stored_by(runtime: Runtime, count: int) -> list[Stored]:
    """Credentials of as many users."""
    return list(await asyncio.gather(*(store(runtime) for _ in range(count))))


async def open_all(runtime: Runtime, stored: list[Stored]) -> list[Any]:
    """What comes of opening them at the same time; errors are values."""
    return await asyncio.gather(*(opened(runtime, each.id, each.user_id) for each in stored), return_exceptions=True)


async def batches_of(conn: Connection, stored: list[Stored]) -> set[UUID]:
    rows = await conn.fetch(
        "SELECT DISTINCT batch_id FROM credential_events WHERE outcome = 'granted' AND acting_user = ANY($1)",
        [each.user_id for each in stored],
    )
    return {row["batch_id"] for row in rows}


async def test_opens_at_the_same_time_are_one_statement_and_one_request_with_the_same_id(
    stack: Stack, owner_conn: Connection
) -> None:
    async with watched_runtime(stack) as (runtime, seen):
        stored = await stored_by(runtime, 20)
        await open_all(runtime, stored)  # the ciphertexts are in memory from here on
        before = await batches_of(owner_conn, stored)
        del seen[:]
        assert await open_all(runtime, stored) == [each.keys for each in stored]
        (batch,) = await batches_of(owner_conn, stored) - before
        assert seen == [(DECRYPT, str(batch))]


async def test_our_events_and_vaults_own_audit_log_are_joined_by_the_batchs_id(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    log = AuditLog(stack)
    stored = await stored_by(runtime, 5)
    await open_all(runtime, stored)
    joined = {each for ids in log.decryptions() for each in ids.split(",")}
    assert {str(batch) for batch in await batches_of(owner_conn, stored)} == joined


async def test_a_lone_open_of_the_first_batch_is_not_kept_waiting_for_company(stack: Stack) -> None:
    async with watched_runtime(stack) as (runtime, _):
        (stored,) = await stored_by(runtime, 1)
        async with asyncio.timeout(5):
            for _ in range(3):
                assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def test_a_cold_start_reads_each_ciphertext_once_however_many_want_it(stack: Stack, runtime: Runtime) -> None:
    stored = await store(runtime)
    async with watched_runtime(stack) as (cold, seen):
        found = await open_all(cold, [stored] * 50)
    assert found == [stored.keys] * 50
    assert [path for path, _ in seen if "/data/" in path] == [f"/v1/credentials/data/{stored.path}"]


async def test_a_ciphertext_destroyed_by_hand_stops_opening_when_the_cache_is_old(stack: Stack) -> None:
    async with Runtime.open(stack.settings(ciphertext_cache_seconds=0.5)) as runtime:
        stored = await store(runtime)
        assert await opened(runtime, stored.id, stored.user_id) == stored.keys
        stack.vault("PUT", f"credentials/destroy/{stored.path}", {"versions": [1]})
        await asyncio.sleep(0.6)
        with pytest.raises(CiphertextGone):
            await opened(runtime, stored.id, stored.user_id)


async def test_nothing_that_the_cache_holds_is_plaintext(runtime: Runtime) -> None:
    stored = await store(runtime)
    await opened(runtime, stored.id, stored.user_id)
    cache = runtime.opener._batches._ciphertexts  # the one place that keeps anything between requests
    kept = [seal.ciphertext for seal, _until in cache._kept.values()]
    assert kept
    assert all(ciphertext.startswith("vault:v") for ciphertext in kept)


async def test_a_bad_ciphertext_and_a_denial_fail_alone(stack: Stack, runtime: Runtime, owner_conn: Connection) -> None:
    stored = await stored_by(runtime, 6)
    await open_all(runtime, stored)
    await owner_conn.execute("UPDATE credentials SET binding = sha256(binding) WHERE id = $1", stored[0].id)
    await owner_conn.execute("UPDATE credentials SET is_active = false WHERE id = $1", stored[1].id)
    found = await open_all(runtime, stored)
    assert isinstance(found[0], CiphertextRejected)
    assert isinstance(found[1], CredentialsError)
    assert found[2:] == [each.keys for each in stored[2:]]
    assert await last_event(owner_conn, stored[0].user_id) == ("failed", "ciphertext_rejected")
    assert await last_event(owner_conn, stored[1].user_id) == ("denied", "inactive")


async def test_a_batch_of_bad_ciphertexts_alone_is_told_to_each(runtime: Runtime, owner_conn: Connection) -> None:
    stored = await stored_by(runtime, 3)
    await open_all(runtime, stored)
    for each in stored:
        await owner_conn.execute("UPDATE credentials SET binding = sha256(binding) WHERE id = $1", each.id)
    assert {type(each) for each in await open_all(runtime, stored)} == {CiphertextRejected}


async def test_what_decrypted_wrongly_is_read_from_kv_again(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    stored = await store(runtime)
    ciphertext = stack.vault("GET", f"credentials/data/{stored.path}").json()["data"]["data"]["ciphertext"]
    kv_rewrite(stack, stored.path, [ciphertext[:-8] + "AAAAAAA="])
    with pytest.raises(CiphertextRejected):
        await opened(runtime, stored.id, stored.user_id)
    kv_rewrite(stack, stored.path, [ciphertext])
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def test_a_failed_batch_gives_each_caller_its_own_error_and_each_a_record(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    stored = await stored_by(runtime, 8)
    asked = 0

    async def sealed(when: str, step: str) -> None:
        nonlocal asked
        if (when, step) == ("before", "cipher.decrypt") and warm:
            asked += 1
            raise VaultSealed(retry_after=9)

    warm = False
    async with hooked_runtime(stack.settings(), sealed) as unlucky:
        await open_all(unlucky, stored)
        warm = True
        errors = await open_all(unlucky, stored)
    assert [(type(error), error.retry_after) for error in errors] == [(VaultSealed, 9)] * 8
    assert len({id(error) for error in errors}) == 8
    assert asked == 1, "it was tried by each"
    for each in stored:
        assert await last_event(owner_conn, each.user_id) == ("failed", "unavailable")


async def test_a_fault_that_passes_is_tried_again_for_the_batch_and_not_by_each(stack: Stack) -> None:
    async def pass_on(_path: str, _batch: str) -> None: ...

    async with AsyncExitStack() as held:
        vault = await held.enter_async_context(WatchedVault(stack.vault_addr, pass_on))
        settings = stack.settings(vault_addr=vault.url, oidc_issuer=None)
        runtime = await held.enter_async_context(Runtime.open(settings))
        stored = await stored_by(runtime, 10)
        await open_all(runtime, stored)
        vault.reset()
        vault.script(json_answer(503, {"errors": ["something passing"]}))
        assert await open_all(runtime, stored) == [each.keys for each in stored]
        assert [each.path_qs for each in vault.seen] == [DECRYPT, DECRYPT]


@pytest.mark.parametrize("is_cold", [False, True], ids=["in-memory", "read-from-kv"])
async def test_a_caller_that_gives_up_harms_no_other_and_its_plaintext_is_wiped(
    stack: Stack, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, is_cold: bool
) -> None:
    stored = await stored_by(runtime, 1 if is_cold else 4)
    made: list[Plaintext] = []
    allocate = Plaintext.allocate

    def noting_allocate(size: int) -> Plaintext:
        made.append(allocate(size))
        return made[-1]

    monkeypatch.setattr(Plaintext, "allocate", noting_allocate)
    warm = False

    async def hook(when: str, step: str) -> None:
        if warm:
            await gate(when, step)

    gate = Gate("after", "cipher.decrypt")
    async with hooked_runtime(stack.settings(batches_under_way=1), hook) as gated:
        if not is_cold:
            await open_all(gated, stored)
        warm = True
        del made[:]
        tasks = [asyncio.create_task(opened(gated, each.id, each.user_id)) for each in stored]
        await gate.wait_for(tasks[0])
        tasks[0].cancel()
        await asyncio.sleep(0)
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert await asyncio.gather(*tasks[1:]) == [each.keys for each in stored[1:]]
        await asyncio.sleep(0.05)  # closing would end the batch within the hook, which has what it got in its hands
    assert len(made) == len(stored)
    assert not any(bytes(each.reveal()).strip(b"\0") for each in made)


async def test_the_callers_own_connections_share_the_requests_to_vault(stack: Stack, owner_conn: Connection) -> None:
    async with AsyncExitStack() as held, watched_runtime(stack) as (runtime, seen):
        stored = await stored_by(runtime, 6)
        await open_all(runtime, stored)
        log = AuditLog(stack)
        configure(runtime.settings)
        held.push_async_callback(close_process_runtime)
        held.callback(configure, None)
        conns = [await asyncpg.connect(stack.runtime_url) for _ in stored]
        for conn in conns:
            held.push_async_callback(conn.close)
        del seen[:]
        before = await batches_of(owner_conn, stored)

        async def by_the_seeds_function(conn: Connection, each: Stored) -> tuple[str, str]:
            async with get_decrypted_credential(conn, each.id, each.user_id) as (api_key, secret_key):
                return str(api_key), str(secret_key)

        for _ in range(5):
            ways = (by_the_seeds_function(conn, each) for conn, each in zip(conns, stored, strict=True))
            assert await asyncio.gather(*ways) == [each.keys for each in stored]
    requests = [batch for path, batch in seen if path == DECRYPT]
    assert len(requests) < 5 * len(stored), "each asked Vault by itself"
    events = await batches_of(owner_conn, stored) - before
    assert {UUID(each) for ids in requests for each in ids.split(",")} == events
    assert {each for ids in log.decryptions() for each in ids.split(",")} == {
        each for ids in requests for each in ids.split(",")
    }


async def test_opens_over_one_connection_at_the_same_time_all_succeed_and_those_without_share_a_statement(
    stack: Stack, runtime: Runtime, runtime_conn: Connection, owner_conn: Connection
) -> None:
    stored = await stored_by(runtime, 12)
    async with AsyncExitStack() as held:
        configure(runtime.settings)
        held.push_async_callback(close_process_runtime)
        held.callback(configure, None)

        async def by_the_seeds_function(conn: "Connection | None", each: Stored) -> tuple[str, str]:
            async with get_decrypted_credential(conn, each.id, each.user_id) as (api_key, secret_key):
                return str(api_key), str(secret_key)

        for conn in (runtime_conn, None):
            before = await batches_of(owner_conn, stored)
            found = await asyncio.gather(*(by_the_seeds_function(conn, each) for each in stored))
            assert found == [each.keys for each in stored]
            assert len(await batches_of(owner_conn, stored) - before) <= 4


async def test_beyond_the_bound_an_open_is_told_busy_and_over_rest_503(
    stack: Stack, runtime: Runtime, bearer: Any
) -> None:
    stored = await store(runtime, "alice")
    async with AlpacaDouble() as alpaca:
        narrow = stack.settings(batch_items=1, batches_under_way=1, max_waiting=2, alpaca_base_url=alpaca.url)
        app = create_app(narrow)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service.test") as client,
        ):
            url, headers = f"/v1/credentials/{stored.id}/validate", bearer("user", "alice")
            answers = await asyncio.gather(*(client.post(url, headers=headers) for _ in range(12)))
            refused = [answer for answer in answers if answer.status_code == 503]
            assert refused
            assert {answer.json()["type"].rpartition(":")[2] for answer in refused} == {"busy"}
            assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
            assert {answer.status_code for answer in answers} <= {200, 503}
            results = await open_all(app.state.runtime, [stored] * 12)
            assert any(isinstance(result, Busy) for result in results)
            assert all(result == stored.keys or isinstance(result, Busy) for result in results)


async def test_one_users_flood_does_not_hold_up_anothers_single_open(stack: Stack, runtime: Runtime) -> None:
    flooding, single = await stored_by(runtime, 2)
    async with Runtime.open(stack.settings(batch_items=4, batches_under_way=1)) as narrow:
        await open_all(narrow, [flooding, single])
        order: list[str] = []

        async def one(stored: Stored, name: str) -> None:
            await opened(narrow, stored.id, stored.user_id)
            order.append(name)

        flood = [asyncio.create_task(one(flooding, "flood")) for _ in range(100)]
        await asyncio.sleep(0)
        await one(single, "single")
        assert order.index("single") < 12
        await asyncio.gather(*flood)


async def test_a_name_that_would_fail_a_whole_batch_is_refused_before_it_is_queued(runtime: Runtime) -> None:
    stored = await store(runtime)
    bad = [opened(runtime, stored.id, name) for name in ("nul\0", "half\ud800", "", "x" * 2000)]
    found = await asyncio.gather(opened(runtime, stored.id, stored.user_id), *bad, return_exceptions=True)
    assert found[0] == stored.keys
    assert all(isinstance(each, ValueError) for each in found[1:])


async def test_so_is_an_actor(runtime: Runtime) -> None:
    stored = await store(runtime)

    async def open_as(actor: str) -> None:
        async with runtime.opener.reveal(OwnerAccess(user_id=stored.user_id, actor=actor), stored.id):
            pass

    found = await asyncio.gather(open_as("good"), open_as("nul\0"), open_as("half\ud800"), return_exceptions=True)
    assert [type(each) for each in found] == [type(None), InvalidInput, InvalidInput]


async def test_a_row_whose_key_version_is_not_its_ciphertexts_does_not_open_from_memory_either(
    runtime: Runtime, owner_conn: Connection
) -> None:
    stored = await store(runtime)
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys
    await owner_conn.execute("UPDATE credentials SET transit_key_version = 2 WHERE id = $1", stored.id)
    with pytest.raises(CredentialUnreadable):
        await opened(runtime, stored.id, stored.user_id)


async def test_a_strangers_open_in_the_same_batch_gets_nothing(runtime: Runtime) -> None:
    stored = await store(runtime)
    strangers = [some_user("stranger") for _ in range(5)]
    found = await asyncio.gather(
        opened(runtime, stored.id, stored.user_id),
        *(opened(runtime, stored.id, stranger) for stranger in strangers),
        return_exceptions=True,
    )
    assert found[0] == stored.keys
    assert {type(each) for each in found[1:]} == {CredentialNotFound}


async def test_stores_at_the_same_time_are_one_request_to_encrypt_and_bounded_writes_to_kv(stack: Stack) -> None:
    at_once = most = encryptions = 0

    async def count(when: str, step: str) -> None:
        nonlocal at_once, most, encryptions
        if step == "cipher.encrypt" and when == "before":
            encryptions += 1
        if step == "ciphertexts.write":
            at_once += 1 if when == "before" else -1
            most = max(most, at_once)

    async with hooked_runtime(stack.settings(kv_writes_at_once=3), count) as runtime:
        pairs = [pair_of_keys() for _ in range(20)]
        people = [Somebody() for _ in pairs]
        made = await asyncio.gather(*(who.store(runtime, keys) for who, keys in zip(people, pairs, strict=True)))
        assert (encryptions, most) == (1, 3)
        for who, keys, credential in zip(people, pairs, made, strict=True):
            assert await opened(runtime, credential.id, who.user_id) == keys


async def test_where_too_many_stores_wait_the_rest_are_told_busy_and_leave_nothing(
    stack: Stack, owner_conn: Connection
) -> None:
    narrow = stack.settings(batch_items=1, batches_under_way=1, max_waiting=2, kv_writes_at_once=1)
    people = [Somebody() for _ in range(10)]
    async with Runtime.open(narrow) as runtime:
        results = await asyncio.gather(*(who.store(runtime, pair_of_keys()) for who in people), return_exceptions=True)
    assert any(isinstance(result, Busy) for result in results)
    for who, result in zip(people, results, strict=True):
        rows = await owner_conn.fetchval("SELECT count(*) FROM credentials WHERE user_id = $1", who.user_id)
        listed = stack.vault("LIST", f"credentials/metadata/{who.account_id}").status_code
        assert (rows, listed) == ((0, 404) if isinstance(result, Busy) else (1, 200))
