"""Rotating and retiring, invariant 7; and what jobs do when Vault or Postgres has trouble.

On a stack of this module's own, as keys are rotated, versions retired and Vault sealed here.
"""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import httpx
import pytest

from service.composition import Runtime
from service.errors import DatabaseUnavailable, InstallationMismatch, TemporarilyUnavailable, VaultSealed
from service.localstack.state_dir import StateDir
from service.modules.derivation_context import derivation_context
from service.modules.key_records import JobReason, JobState
from service.rotator import Rotator
from tests.conftest import start_stack
from tests.doubles.postgres_proxy import PostgresProxy
from tests.port_hooks import Gate, hooked_rotator, hooked_runtime
from tests.rotating import (
    ACTOR,
    KEY,
    ask,
    assert_all_open,
    assert_moved,
    assert_reconciled,
    clear,
    do,
    finish,
    job,
    newest_version,
    one,
    over,
    rotator_of,
    some_credentials,
)
from tests.support import Stack
from tests.written import Connection, Somebody, assert_agree, pair_of_keys


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with start_stack(tmp_path_factory.mktemp("jobs")) as started:
        yield started


@pytest.fixture
async def rotator(stack: Stack) -> AsyncIterator[Rotator]:
    async with rotator_of(stack.settings()) as opened:
        yield opened


@pytest.fixture(autouse=True)
async def empty(stack: Stack, owner_conn: Connection) -> None:
    """Each test begins without credentials, jobs and retired versions."""
    await clear(stack, owner_conn)
    await owner_conn.execute("UPDATE key_floors SET min_version = 1")
    set_min_decryption_version(stack, 1)


def set_min_decryption_version(stack: Stack, version: int) -> None:
    """As somebody with the right to."""
    assert stack.vault("POST", f"transit/keys/{KEY}/config", {"min_decryption_version": version}).is_success


def min_decryption_version(stack: Stack) -> int:
    return int(stack.vault("GET", f"transit/keys/{KEY}").json()["data"]["min_decryption_version"])


def made(stack: Stack) -> dict[int, datetime]:
    """The dates of the key's versions, as far as Vault tells them."""
    told = stack.vault("GET", f"transit/keys/{KEY}").json()["data"]["keys"]
    return {int(version): datetime.fromtimestamp(at, UTC) for version, at in told.items()}


async def noted(conn: Connection) -> dict[int, datetime]:
    """The dates of the key's versions, as jobs have noted them."""
    found = await conn.fetch("SELECT version, created_at FROM key_versions WHERE transit_key = $1", KEY)
    return {row["version"]: row["created_at"] for row in found}


async def floor(conn: Connection) -> int:
    return int(await conn.fetchval("SELECT min_version FROM key_floors WHERE transit_key = $1", KEY))


# --- rotating --------------------------------------------------------------------------------------------------------


async def test_a_rotation_makes_one_new_version_and_an_event_that_tells_who_wanted_it(
    stack: Stack, owner_conn: Connection, rotator: Rotator
) -> None:
    before = newest_version(stack)
    done = await do(rotator, owner_conn, "rotate")
    assert newest_version(stack) == before + 1
    assert (done.state, done.from_version, done.to_version) == (JobState.DONE, before, before + 1)
    event = await one(owner_conn, "SELECT * FROM credential_events WHERE action = 'rotate' ORDER BY id DESC LIMIT 1")
    assert (event["actor"], event["acting_user"], event["outcome"]) == (ACTOR, None, "done")
    assert (event["transit_key"], event["transit_key_version"], event["credential_id"]) == (KEY, before + 1, None)


async def test_two_workers_that_get_the_same_rotation_make_one_version(
    stack: Stack, owner_conn: Connection, rotator: Rotator
) -> None:
    before, gate = newest_version(stack), Gate("before", "keys.rotate")
    asked = await ask(owner_conn, "rotate")
    async with hooked_rotator(stack.settings(), gate) as first:
        rotating = asyncio.create_task(first.runner.step())
        await gate.wait_for(rotating)
        assert not await rotator.runner.step()
        gate.opened.set()
        assert await rotating
    done = await finish(rotator, owner_conn, asked)
    assert done.state is JobState.DONE
    assert newest_version(stack) == before + 1


async def test_a_rotation_whose_answer_was_lost_is_not_done_again(
    stack: Stack, owner_conn: Connection, rotator: Rotator
) -> None:
    before = newest_version(stack)

    async def lost(when: str, step: str) -> None:
        if (when, step) == ("after", "keys.rotate"):
            raise TemporarilyUnavailable

    asked = await ask(owner_conn, "rotate")
    async with hooked_rotator(stack.settings(), lost) as unlucky:
        with pytest.raises(TemporarilyUnavailable):
            await unlucky.runner.step()
    assert (await job(owner_conn, asked)).state is JobState.RUNNING
    done = await finish(rotator, owner_conn, asked)
    assert (done.state, done.to_version) == (JobState.DONE, before + 1)
    assert newest_version(stack) == before + 1


@pytest.mark.parametrize("kind", ["rotate", "retire", "rewrap"])
async def test_a_job_that_is_stopped_before_its_turn_does_nothing(
    stack: Stack, owner_conn: Connection, rotator: Rotator, kind: str
) -> None:
    before = newest_version(stack)
    asked = await ask(owner_conn, kind, below=before if kind == "retire" else None)
    await owner_conn.execute("UPDATE jobs SET stop_requested_by = $2 WHERE id = $1", asked, ACTOR)
    done = await finish(rotator, owner_conn, asked)
    assert (done.state, done.reason) == (JobState.FAILED, JobReason.STOPPED)
    assert (newest_version(stack), await floor(owner_conn)) == (before, 1)


@pytest.mark.parametrize("kind", ["rotate", "rewrap", "retire"])
async def test_every_job_notes_when_the_keys_versions_were_made_as_vault_tells_it(
    stack: Stack, owner_conn: Connection, rotator: Rotator, kind: str
) -> None:
    assert stack.vault("POST", f"transit/keys/{KEY}/rotate").is_success  # by hand, of which no job knows
    await owner_conn.execute("DELETE FROM key_versions")
    before = made(stack)
    await do(rotator, owner_conn, kind, below=newest_version(stack) if kind == "retire" else None)
    after = made(stack)
    assert await noted(owner_conn) == before | after
    assert set(before | after) == set(range(1, newest_version(stack) + 1))
    assert (min(after) > 1) is (kind == "retire")  # Vault itself tells no more


async def test_a_date_that_was_noted_stays_and_the_rotators_role_cannot_change_it(
    stack: Stack, owner_conn: Connection, rotator: Rotator
) -> None:
    await do(rotator, owner_conn, "rotate")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    await owner_conn.execute("UPDATE key_versions SET created_at = $1 WHERE version = 1", long_ago)
    await do(rotator, owner_conn, "rotate")
    assert (await noted(owner_conn))[1] == long_ago
    as_rotator: Connection = await asyncpg.connect(stack.local.rotator_database_url)
    try:
        for statement in ("UPDATE key_versions SET created_at = now()", "DELETE FROM key_versions"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await as_rotator.execute(statement)
    finally:
        await as_rotator.close()


# --- retiring --------------------------------------------------------------------------------------------------------


async def test_invariant_7_a_version_that_is_still_needed_is_not_retired_and_the_job_says_by_what(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    present, kept = (await some_credentials(runtime, 1))[0], (await some_credentials(runtime, 1))[0]
    await do(rotator, owner_conn, "rotate")
    await kept.somebody.update(runtime, kept.id, *pair_of_keys())  # its kept secret is below
    done = await do(rotator, owner_conn, "retire", below=newest_version(stack))
    assert (done.state, done.reason) == (JobState.FAILED, JobReason.STILL_NEEDED)
    failures = await owner_conn.fetch("SELECT * FROM job_failures WHERE job_id = $1", done.id)
    assert {row["credential_id"]: row["reason"] for row in failures} == {
        present.id: "still_needed",
        kept.id: "previous_still_needed",
    }
    assert (await floor(owner_conn), min_decryption_version(stack)) == (1, 1)
    assert await present.somebody.opens(runtime, present.id) == present.keys


async def test_invariant_7_a_kept_secret_alone_keeps_its_version(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    (kept,) = await some_credentials(runtime, 1)
    await do(rotator, owner_conn, "rotate")
    await kept.somebody.update(runtime, kept.id, *pair_of_keys())
    done = await do(rotator, owner_conn, "retire", below=newest_version(stack))
    assert (done.state, done.reason) == (JobState.FAILED, JobReason.STILL_NEEDED)
    await runtime.writer.rollback(kept.somebody.access, kept.id, if_match=None)
    assert await kept.somebody.opens(runtime, kept.id) == kept.keys


async def test_invariant_7_after_a_rewrap_the_old_version_is_retired_and_opens_nothing_until_somebody_lowers_it(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    kept = await some_credentials(runtime, 3, updated=1)
    old = await one(owner_conn, "SELECT * FROM credentials WHERE id = $1", kept[0].id)
    from_before = stack.vault("GET", f"credentials/data/{kept[0].path}?version={old['kv_version']}").json()
    context = derivation_context(
        binding=old["binding"],
        user_id=old["user_id"],
        account_id=old["account_id"],
        credential_id=old["id"],
        secret_version=old["secret_version"],
        credential_type=old["credential_type"],
    )
    token = stack.runtime_token()

    def decrypt() -> httpx.Response:
        body = {"ciphertext": from_before["data"]["data"]["ciphertext"], "context": base64.b64encode(context).decode()}
        return stack.vault("POST", f"transit/decrypt/{KEY}", body, token=token)

    assert decrypt().is_success
    await do(rotator, owner_conn, "rotate")
    await do(rotator, owner_conn, "rewrap")
    version = newest_version(stack)
    done = await do(rotator, owner_conn, "retire", below=version)
    assert (done.state, done.reason) == (JobState.DONE, None)
    assert (await floor(owner_conn), min_decryption_version(stack)) == (version, version)
    event = await one(owner_conn, "SELECT * FROM credential_events WHERE action = 'retire' ORDER BY id DESC LIMIT 1")
    assert (event["actor"], event["outcome"], event["transit_key_version"]) == (ACTOR, "done", version)
    await assert_all_open(runtime, kept)
    refused = decrypt()
    assert refused.status_code == 400
    assert "too old" in refused.text
    set_min_decryption_version(stack, old["transit_key_version"])
    assert base64.b64decode(decrypt().json()["data"]["plaintext"]).decode() == "\n".join(kept[0].keys)


@pytest.mark.parametrize("held_before", ["store.begin_write", "ciphertexts.write", "store.insert"])
async def test_invariant_7_a_store_under_way_while_its_version_is_retired_is_sealed_again(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator, held_before: str
) -> None:
    somebody, keys, gate = Somebody(), pair_of_keys(), Gate("before", held_before)
    async with hooked_runtime(stack.settings(), gate) as slow:
        storing = asyncio.create_task(somebody.store(slow, keys))
        await gate.wait_for(storing)
        await do(rotator, owner_conn, "rotate")
        version = newest_version(stack)
        assert (await do(rotator, owner_conn, "retire", below=version)).state is JobState.DONE
        gate.opened.set()
        stored = await storing
    assert stored.transit_key_version == version
    assert await somebody.opens(runtime, stored.id) == keys
    await assert_agree(stack, owner_conn, stored.id)


@pytest.mark.parametrize("held_before", ["store.begin_write", "ciphertexts.write", "store.replace_secret"])
async def test_invariant_7_an_update_under_way_while_its_version_is_retired_is_sealed_again(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator, held_before: str
) -> None:
    somebody, keys, gate = Somebody(), pair_of_keys(), Gate("before", held_before)
    stored = await somebody.store(runtime, pair_of_keys())
    async with hooked_runtime(stack.settings(), gate) as slow:
        updating = asyncio.create_task(somebody.update(slow, stored.id, *keys))
        await gate.wait_for(updating)
        await do(rotator, owner_conn, "rotate")
        await do(rotator, owner_conn, "rewrap")
        version = newest_version(stack)
        assert (await do(rotator, owner_conn, "retire", below=version)).state is JobState.DONE
        gate.opened.set()
        updated = await updating
    assert updated.transit_key_version == version
    assert await somebody.opens(runtime, stored.id) == keys
    await runtime.writer.rollback(somebody.access, stored.id, if_match=None)  # rewrapped before it was kept
    await assert_reconciled(stack, runtime, owner_conn)


async def test_invariant_7_retiring_waits_for_a_write_that_is_about_to_commit_and_counts_it(
    stack: Stack, runtime: Runtime, runtime_conn: Connection, owner_conn: Connection, rotator: Rotator
) -> None:
    somebody, keys = Somebody(), pair_of_keys()
    transaction = runtime_conn.transaction()
    await transaction.start()
    stored = await somebody.store(runtime, keys, conn=runtime_conn)
    await do(rotator, owner_conn, "rotate")
    asked = await ask(owner_conn, "retire", below=newest_version(stack))
    retiring = asyncio.create_task(rotator.runner.step())
    await asyncio.sleep(0.3)
    assert not retiring.done()
    await transaction.commit()
    await retiring
    done = await finish(rotator, owner_conn, asked)
    assert (done.state, done.reason) == (JobState.FAILED, JobReason.STILL_NEEDED)
    assert await somebody.opens(runtime, stored.id) == keys


async def test_a_version_that_there_is_not_yet_is_not_retired(
    stack: Stack, owner_conn: Connection, rotator: Rotator
) -> None:
    done = await do(rotator, owner_conn, "retire", below=newest_version(stack) + 1)
    assert (done.state, done.reason) == (JobState.FAILED, JobReason.NO_SUCH_VERSION)
    assert (await floor(owner_conn), min_decryption_version(stack)) == (1, 1)


async def test_the_floor_is_not_raised_where_vault_would_refuse(
    stack: Stack, owner_conn: Connection, rotator: Rotator
) -> None:
    """Vault wants min_encryption_version, where it is set, at or above min_decryption_version."""
    await do(rotator, owner_conn, "rotate")
    version = newest_version(stack)
    config = f"transit/keys/{KEY}/config"
    assert stack.vault("POST", config, {"min_encryption_version": version - 1}).is_success
    done = await do(rotator, owner_conn, "retire", below=version)
    assert stack.vault("POST", config, {"min_encryption_version": 0}).is_success
    assert (done.state, done.reason) == (JobState.FAILED, JobReason.VAULT_KEEPS_ENCRYPTING)
    assert (await floor(owner_conn), min_decryption_version(stack)) == (1, 1)


async def test_a_retirement_that_was_cut_short_before_vault_was_asked_is_completed(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator
) -> None:
    async def lost(when: str, step: str) -> None:
        if (when, step) == ("before", "keys.set_min_decryption_version"):
            raise TemporarilyUnavailable

    await do(rotator, owner_conn, "rotate")
    version = newest_version(stack)
    asked = await ask(owner_conn, "retire", below=version)
    async with hooked_rotator(stack.settings(), lost) as unlucky:
        with pytest.raises(TemporarilyUnavailable):
            await unlucky.runner.step()
    assert (await floor(owner_conn), min_decryption_version(stack)) == (version, 1)
    assert (await finish(rotator, owner_conn, asked)).state is JobState.DONE
    assert min_decryption_version(stack) == version


# --- trouble ---------------------------------------------------------------------------------------------------------


async def test_vault_sealed_in_the_middle_of_a_rewrap_is_waited_for_and_the_job_goes_on(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    kept, gate = await some_credentials(runtime, 5, updated=2), Gate("before", "ciphertexts.write")
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
    asked = await ask(owner_conn, "rewrap")
    async with hooked_rotator(stack.settings(rewrap_batch=3), gate) as rotator:
        rewrapping = asyncio.create_task(rotator.runner.step())
        await gate.wait_for(rewrapping)
        await asyncio.to_thread(stack.vault, "PUT", "sys/seal")
        gate.opened.set()
        with pytest.raises(TemporarilyUnavailable):
            await rewrapping
        with pytest.raises(VaultSealed):
            await rotator.runner.step()
        assert (await job(owner_conn, asked)).state is JobState.RUNNING
        await asyncio.to_thread(unseal, stack)
        done = await finish(rotator, owner_conn, asked)
    assert (done.state, done.done, done.failed) == (JobState.DONE, 5, 0)
    await assert_moved(stack, owner_conn, kept, newest_version(stack))
    await assert_all_open(runtime, kept)
    await assert_reconciled(stack, runtime, owner_conn)


def unseal(stack: Stack) -> None:
    """And waits until it serves."""
    key = StateDir(stack.local.state_dir).read_json("init.json")["unseal_key"]
    assert stack.vault("PUT", "sys/unseal", {"key": key}).is_success
    while stack.vault("GET", "sys/health").status_code != httpx.codes.OK:
        time.sleep(0.05)


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_whose_answer_is_lost_loses_no_credential_and_counts_none_twice(
    stack: Stack, runtime: Runtime, owner_conn: Connection, rotator: Rotator, cut: str
) -> None:
    kept = await some_credentials(runtime, 5, updated=2)
    await do(rotator, owner_conn, "rotate")
    asked = await ask(owner_conn, "rewrap")
    async with PostgresProxy(stack.local.rotator_database_url) as proxy:
        settings = stack.settings(rotator_database_url=proxy.url, rewrap_batch=5)
        async with rotator_of(settings) as unlucky:
            proxy.cut = "before" if cut == "before" else "after"
            with pytest.raises(DatabaseUnavailable):
                await unlucky.runner.step()
            assert proxy.cuts == 1
            assert (await job(owner_conn, asked)).state is JobState.RUNNING
            done = await finish(unlucky, owner_conn, asked)
    assert (done.state, done.done, done.failed) == (JobState.DONE, 5, 0)
    await assert_moved(stack, owner_conn, kept, newest_version(stack))
    await assert_all_open(runtime, kept)
    await assert_reconciled(stack, runtime, owner_conn)


async def test_nothing_is_done_where_vault_and_postgres_do_not_belong_together(
    stack: Stack, owner_conn: Connection, rotator: Rotator
) -> None:
    before, asked = newest_version(stack), await ask(owner_conn, "rotate")
    ours = await owner_conn.fetchval("SELECT id FROM installation")
    await owner_conn.execute("UPDATE installation SET id = $1", uuid4())
    try:
        with pytest.raises(InstallationMismatch):
            await rotator.runner.step()
        assert newest_version(stack) == before
        assert (await job(owner_conn, asked)).from_version is None
    finally:
        await owner_conn.execute("UPDATE installation SET id = $1", ours)
    assert (await finish(rotator, owner_conn, asked)).state is JobState.DONE


async def test_what_the_rotators_policy_does_not_allow_fails_the_job_and_says_so(
    stack: Stack, owner_conn: Connection, rotator: Rotator
) -> None:
    name = stack.local.names.rotator
    policy = stack.vault("GET", f"sys/policies/acl/{name}").json()["data"]["policy"]
    forbidding = policy + '\npath "transit/keys/credentials-alpaca/rotate" {\n  capabilities = ["deny"]\n}\n'
    forbidding = forbidding.replace('"transit/keys/+/rotate"', '"transit/keys/none/rotate"')
    assert stack.vault("PUT", f"sys/policies/acl/{name}", {"policy": forbidding}).is_success
    try:
        done = await do(rotator, owner_conn, "rotate")
    finally:
        assert stack.vault("PUT", f"sys/policies/acl/{name}", {"policy": policy}).is_success
    assert (done.state, done.reason) == (JobState.FAILED, JobReason.VAULT_DENIED)


async def test_a_key_that_vault_does_not_have_fails_the_job(owner_conn: Connection, rotator: Rotator) -> None:
    key = f"credentials-{uuid4().hex[:8]}"
    await owner_conn.execute("INSERT INTO key_floors (transit_key) VALUES ($1)", key)
    for kind in ("rotate", "rewrap", "retire"):
        done = await do(rotator, owner_conn, kind, key=key, below=1 if kind == "retire" else None)
        assert (done.state, done.reason) == (JobState.FAILED, JobReason.KEY_NOT_FOUND)


async def test_no_error_ends_the_loop_and_what_is_logged_of_it_holds_no_value(
    stack: Stack, owner_conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    secret, troubles = uuid4().hex, iter([RuntimeError(uuid4().hex), asyncpg.PostgresError(), VaultSealed()])

    async def trouble(when: str, step: str) -> None:
        if (when, step) == ("before", "keys.describe") and (error := next(troubles, None)):
            error.args = (secret,)
            raise error

    asked = await ask(owner_conn, "rotate")
    with caplog.at_level(logging.DEBUG, "service"):
        async with hooked_rotator(stack.settings(job_poll_seconds=0.05), trouble) as rotator:
            running = asyncio.create_task(rotator.run())
            done = await over(owner_conn, asked)
            rotator.stop()
            await running
    assert done.state is JobState.DONE
    said = [record for record in caplog.records if record.name == "service.modules.job_runner"]
    assert [record.levelname for record in said] == ["INFO", "WARNING", "WARNING", "WARNING"]
    assert secret not in "".join(str(vars(record)) for record in said)
    assert stack.local.rotator_database_url not in caplog.text


async def test_a_long_rewrap_keeps_no_other_job_waiting(stack: Stack, runtime: Runtime, owner_conn: Connection) -> None:
    await some_credentials(runtime, 12)
    before = newest_version(stack)
    async with rotator_of(stack.settings(rewrap_per_second=1)) as slow:
        await do(slow, owner_conn, "rotate")
        rewrap = await ask(owner_conn, "rewrap")
        await slow.runner.step()
        rotated = await do(slow, owner_conn, "rotate")
        assert (rotated.state, rotated.to_version) == (JobState.DONE, before + 2)
        assert (await job(owner_conn, rewrap)).state is JobState.RUNNING


async def test_the_service_does_jobs_itself_where_it_has_the_rotators_logins(
    stack: Stack, owner_conn: Connection
) -> None:
    before = newest_version(stack)
    async with Runtime.open(stack.settings(job_poll_seconds=0.1), background=True):
        assert (await over(owner_conn, await ask(owner_conn, "rotate"))).state is JobState.DONE
    assert newest_version(stack) == before + 1
    async with Runtime.open(stack.settings(job_poll_seconds=0.1, rotator_database_url=None), background=True):
        asked = await ask(owner_conn, "rotate")
        await asyncio.sleep(1)
        assert (await job(owner_conn, asked)).state is JobState.WAITING
