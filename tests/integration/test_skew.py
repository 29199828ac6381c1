"""What is told of Vault and Postgres that don't fit, and what is never told: writes and rewraps under way are no skew.

Here a single path is put back to an earlier state by hand; whole restores are in test_restore_drill.py.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest

from service.composition import Runtime, key_ring
from service.errors import CiphertextGone, ConcurrentUpdate, CredentialsError
from service.modules.event_chain import SealSkew
from service.modules.skew_mending import Diagnosis, Remedy
from service.modules.skew_records import Examined, SkewKind
from tests.conftest import start_stack
from tests.port_hooks import Gate, hooked_rotator, hooked_runtime
from tests.rest import client_on
from tests.rotating import ask, do, finish, rotator_of
from tests.stored import kv_append, kv_ciphertext, kv_rewrite
from tests.support import Stack
from tests.written import Connection, Pair, Somebody, assert_agree, live_versions, pair_of_keys


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own: what others leave in the shared one would be told of."""
    with start_stack(tmp_path_factory.mktemp("skew")) as started:
        yield started


@pytest.fixture(autouse=True)
async def empty(stack: Stack, owner_conn: Connection) -> AsyncIterator[None]:
    """Each test's credentials are all there are."""
    yield
    for row in await owner_conn.fetch("DELETE FROM credentials RETURNING account_id, id"):
        stack.vault("DELETE", f"credentials/metadata/{row['account_id']}/{row['id']}")
    await owner_conn.execute("DELETE FROM write_intents")
    await owner_conn.execute("DELETE FROM jobs")


async def store(runtime: Runtime, keys: Pair | None = None) -> tuple[Somebody, UUID, str]:
    """Somebody's credential, and its path."""
    somebody = Somebody()
    stored = await somebody.store(runtime, keys or pair_of_keys())
    return somebody, stored.id, stored.reference.kv_path


async def looked_at(runtime: Runtime) -> dict[UUID, Examined]:
    """What the full comparison finds."""
    report = await runtime.skew.full()
    return {each.credential.id: each for each in report.credentials}


async def kinds(runtime: Runtime, credential_id: UUID) -> tuple[SkewKind, ...]:
    found = (await looked_at(runtime)).get(credential_id)
    return found.kinds if found else ()


async def diagnosed(stack: Stack, runtime: Runtime, credential_id: UUID) -> Diagnosis:
    examined = (await looked_at(runtime))[credential_id]
    async with key_ring(stack.settings()) as keys:
        return await runtime.skew_mender.diagnose(examined, keys)


def put_back(stack: Stack, path: str, versions: list[str], *, secret: int, key_version: int = 1) -> None:
    """The path as an earlier Vault had it: these ciphertexts, and the annotation of that time."""
    kv_rewrite(stack, path, versions)
    annotate(stack, path, secret_version=str(secret), transit_key_version=str(key_version))


def annotate(stack: Stack, path: str, **custom: str) -> None:
    assert stack.vault("POST", f"credentials/metadata/{path}", {"custom_metadata": custom}).is_success


def newest_key_version(stack: Stack) -> int:
    return int(stack.vault("GET", "transit/keys/credentials-alpaca").json()["data"]["latest_version"])


# --- what is no skew ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_before", ["ciphertexts.write", "ciphertexts.annotate", "store.replace_secret"])
async def test_an_update_under_way_is_no_skew(stack: Stack, runtime: Runtime, held_before: str) -> None:
    somebody, credential_id, _path = await store(runtime)
    gate = Gate("before", held_before)
    async with hooked_runtime(stack.settings(), gate) as slow:
        updating = asyncio.create_task(somebody.update(slow, credential_id, *pair_of_keys()))
        await gate.wait_for(updating)
        assert await looked_at(runtime) == {}
        assert (await runtime.skew.quick()).fits
        gate.opened.set()
        await updating
    assert await looked_at(runtime) == {}


@pytest.mark.parametrize("held_before", ["batch.begin", "ciphertexts.annotate", "batch.finish"])
async def test_a_rewrap_under_way_is_no_skew(
    stack: Stack, runtime: Runtime, owner_conn: Connection, held_before: str
) -> None:
    somebody, credential_id, _path = await store(runtime)
    await somebody.update(runtime, credential_id, *pair_of_keys())
    gate = Gate("before", held_before)
    async with hooked_rotator(stack.settings(), gate) as slow:
        await do(slow, owner_conn, "rotate")
        rewrapping = asyncio.create_task(finish(slow, owner_conn, await ask(owner_conn, "rewrap")))
        await gate.wait_for(rewrapping)
        assert await looked_at(runtime) == {}
        gate.opened.set()
        await rewrapping
    assert await looked_at(runtime) == {}
    assert (await runtime.skew.quick()).fits


async def test_what_a_crash_left_is_reconciliations_and_no_skew(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    """A version that was written and annotated, and never committed, is not taken for a newer secret."""
    somebody, credential_id, path = await store(runtime, keys := pair_of_keys())
    gate = Gate("before", "store.replace_secret")
    async with hooked_runtime(stack.settings(), gate) as dying:
        updating = asyncio.create_task(somebody.update(dying, credential_id, *pair_of_keys()))
        await gate.wait_for(updating)
        updating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await updating
    assert live_versions(stack, path) == {1, 2}
    await somebody.make_intents_due(owner_conn)
    assert await looked_at(runtime) == {}
    await runtime.reconciler.run(apply=True)
    assert await looked_at(runtime) == {}
    assert await somebody.opens(runtime, credential_id) == keys
    await assert_agree(stack, owner_conn, credential_id)


async def test_nothing_is_told_under_load(stack: Stack, runtime: Runtime, owner_conn: Connection) -> None:
    """Updates, rollbacks and deletions that race each other, rotations and rewraps, and looking all the while."""
    somebody, until = Somebody(), time.monotonic() + 8
    credential_ids = [(await somebody.store(runtime, pair_of_keys())).id for _ in range(24)]
    told: list[Any] = []

    async def users(number: int) -> None:
        while time.monotonic() < until:
            # Some of them by two users at once: one of these loses.
            credential_id = credential_ids[number % 16]
            with contextlib.suppress(ConcurrentUpdate):
                await somebody.update(runtime, credential_id, *pair_of_keys())

    async def comers_and_goers() -> None:
        while time.monotonic() < until:
            other = Somebody()
            stored = await other.store(runtime, pair_of_keys())
            await runtime.writer.delete(other.access, stored.id, if_match=None)

    async def operators() -> None:
        async with rotator_of(stack.settings()) as rotator:
            while time.monotonic() < until:
                await do(rotator, owner_conn, "rotate")
                await do(rotator, owner_conn, "rewrap")

    looks = 0

    async def lookers() -> None:
        nonlocal looks
        async with Runtime.open(stack.settings()) as other:
            while time.monotonic() < until:
                for report in (await other.skew.quick(), await other.skew.full()):
                    looks += 1
                    told.extend(each for each in report.credentials if each.matters)
                    told.extend(report.keys)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(users(number))
        for _ in range(2):
            group.create_task(comers_and_goers())
            group.create_task(lookers())
        group.create_task(operators())
    assert told == []
    assert looks >= 4
    assert newest_key_version(stack) > 2
    # Annotations may come late, where several write theirs at once; that is not told of, and can be mended.
    async with key_ring(stack.settings()) as keys:
        for late in (await looked_at(runtime)).values():
            assert late.kinds == (SkewKind.ANNOTATION_BEHIND,)
            assert await runtime.skew_mender.mend(await runtime.skew_mender.diagnose(late, keys), actor="test")
    assert await looked_at(runtime) == {}


# --- what is pinned anew, and what is not ------------------------------------------------------------------------


async def test_a_claim_of_a_newer_secret_is_not_believed(stack: Stack, runtime: Runtime) -> None:
    """Somebody who may write KV claims a newer secret, and puts another credential's ciphertext there."""
    somebody, credential_id, path = await store(runtime, keys := pair_of_keys())
    _other, _other_id, other_path = await store(runtime)
    kv_append(stack, path, {"ciphertext": kv_ciphertext(stack, other_path, 1)}, cas=1)
    annotate(stack, path, secret_version="2", transit_key_version="1")
    diagnosis = await diagnosed(stack, runtime, credential_id)
    assert diagnosis.examined.kinds == (SkewKind.SECRET_BEHIND,)
    assert (diagnosis.remedy, diagnosis.repin) == (Remedy.STORE_ANEW, None)
    assert await somebody.opens(runtime, credential_id) == keys


async def test_what_a_failed_write_left_is_not_taken_for_the_secret(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    """In Vault's backup is a write of secret 2 that never was committed; then another secret 2 was."""
    first, failed, present = pair_of_keys(), pair_of_keys(), pair_of_keys()
    somebody, credential_id, path = await store(runtime, first)
    gate = Gate("before", "store.replace_secret")
    async with hooked_runtime(stack.settings(), gate) as dying:
        updating = asyncio.create_task(somebody.update(dying, credential_id, *failed))
        await gate.wait_for(updating)
        updating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await updating
    backup = [kv_ciphertext(stack, path, 1), kv_ciphertext(stack, path, 2)]
    await somebody.make_intents_due(owner_conn)
    await runtime.reconciler.run(apply=True)
    await somebody.update(runtime, credential_id, *present)
    put_back(stack, path, backup, secret=2)
    diagnosis = await diagnosed(stack, runtime, credential_id)
    assert SkewKind.PIN_GONE in diagnosis.examined.kinds
    assert (diagnosis.remedy, diagnosis.repin) == (Remedy.ROLL_BACK, None)
    with pytest.raises(CiphertextGone):
        await somebody.opens(runtime, credential_id)
    await runtime.writer.rollback(somebody.access, credential_id, if_match=None)
    assert await somebody.opens(runtime, credential_id) == first


async def test_a_row_that_was_changed_meanwhile_is_left_alone(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, credential_id, path = await store(runtime)
    await somebody.update(runtime, credential_id, *pair_of_keys())
    # Postgres to before the update.
    await owner_conn.execute(
        "UPDATE credentials SET kv_version = 1, secret_version = 1, row_version = 1, previous_kv_version = NULL,"
        " previous_secret_version = NULL, previous_transit_key_version = NULL, previous_expires_at = NULL"
        " WHERE id = $1",
        credential_id,
    )
    diagnosis = await diagnosed(stack, runtime, credential_id)
    assert diagnosis.remedy is Remedy.REPIN
    await somebody.update(runtime, credential_id, *(keys := pair_of_keys()))
    assert not await runtime.skew_mender.mend(diagnosis, actor="test")
    assert await somebody.opens(runtime, credential_id) == keys
    assert live_versions(stack, path) >= {1, 2, 3}


# --- what reconciliation leaves alone after a restore --------------------------------------------------------------


async def test_the_last_copy_of_a_secret_is_not_removed_though_an_intent_is_due(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    """A rewrap left the old version to reconciliation; a restored Vault has only that one."""
    somebody, credential_id, path = await store(runtime, keys := pair_of_keys())
    version = newest_key_version(stack)
    backup = [kv_ciphertext(stack, path, 1)]
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
        await do(rotator, owner_conn, "rewrap")
    put_back(stack, path, backup, secret=1, key_version=version)
    await somebody.make_intents_due(owner_conn)
    report = await runtime.reconciler.run(apply=True)
    assert (report.removed, report.failed) == (0, 1)
    assert live_versions(stack, path) == {1}
    diagnosis = await diagnosed(stack, runtime, credential_id)
    assert diagnosis.remedy is Remedy.REPIN
    assert await runtime.skew_mender.mend(diagnosis, actor="test")
    await somebody.make_intents_due(owner_conn)
    assert (await runtime.reconciler.run(apply=True)).failed == 0
    assert await somebody.opens(runtime, credential_id) == keys
    await assert_agree(stack, owner_conn, credential_id)


@pytest.mark.parametrize("held_before", ["ciphertexts.write", "store.replace_secret"])
async def test_an_old_intent_for_a_number_that_vault_counts_anew_does_not_remove_a_write_under_way(
    stack: Stack, runtime: Runtime, owner_conn: Connection, held_before: str
) -> None:
    """A restored Vault gives out KV versions again that intents of before are for."""
    somebody, credential_id, path = await store(runtime)
    await owner_conn.execute(
        "INSERT INTO write_intents (id, credential_id, kv_path, kv_version, due_at)"
        " VALUES (gen_random_uuid(), $1, $2, 2, now())",
        credential_id,
        path,
    )
    gate = Gate("before", held_before)
    async with hooked_runtime(stack.settings(), gate) as slow:
        updating = asyncio.create_task(somebody.update(slow, credential_id, *(keys := pair_of_keys())))
        await gate.wait_for(updating)
        assert (await runtime.reconciler.run(apply=True)).failed == 0
        gate.opened.set()
        assert (await updating).reference.kv_version == 2
    assert await somebody.opens(runtime, credential_id) == keys
    assert await somebody.intents(owner_conn) == 0
    await assert_agree(stack, owner_conn, credential_id)


async def test_an_old_intent_that_is_being_settled_does_not_remove_what_is_written_just_then(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, credential_id, path = await store(runtime)
    await owner_conn.execute(
        "INSERT INTO write_intents (id, credential_id, kv_path, kv_version, due_at)"
        " VALUES (gen_random_uuid(), $1, $2, 2, now())",
        credential_id,
        path,
    )
    gate = Gate("before", "ciphertexts.destroy")
    async with hooked_runtime(stack.settings(), gate) as cleaner:
        cleaning = asyncio.create_task(cleaner.reconciler.run(apply=True))
        # It ends, or is about to remove a version that isn't there yet.
        at_the_gate = asyncio.create_task(gate.reached.wait())
        await asyncio.wait({cleaning, at_the_gate}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        at_the_gate.cancel()
        updating = asyncio.create_task(somebody.update(runtime, credential_id, *(keys := pair_of_keys())))
        for _ in range(400):
            if 2 in live_versions(stack, path):
                break
            await asyncio.sleep(0.05)
        gate.opened.set()
        await asyncio.gather(updating, cleaning)
    assert await somebody.opens(runtime, credential_id) == keys


# --- how it is told ----------------------------------------------------------------------------------------------


async def test_readiness_says_how_many_and_what_to_do_and_stays_200_and_the_log_names_them(
    stack: Stack, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    stored = [await store(runtime) for _ in range(7)]
    async with client_on(stack.settings()) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    for _somebody, _id, path in stored[1:]:
        stack.vault("DELETE", f"credentials/metadata/{path}")
    async with client_on(stack.settings()) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        told = answer.json()["checks"][-1]
        assert (told["name"], told["ok"]) == ("skew", False)
        assert told["detail"].startswith("Vault and Postgres are of different moments")
        assert "at least: 6" in told["detail"]
        assert "`vault-credentials reconcile --skew`" in told["detail"]
        (logged,) = [record.__dict__["first"] for record in caplog.records if record.name == "service.modules.skew"]
        named = [credential_id for _, credential_id, _ in stored if str(credential_id) in logged]
        assert len(named) == 5
        assert stored[0][1] not in named
        for somebody, credential_id, path in stored:
            assert str(credential_id) not in answer.text
            assert somebody.user_id not in answer.text
            assert path.partition("/")[0] not in answer.text
        # What fits works.
        assert len(await stored[0][0].opens(runtime, stored[0][1])) == 2


async def test_readiness_asks_both_stores_once_in_a_while_however_often_it_is_asked(stack: Stack) -> None:
    asked = 0

    async def count(when: str, step: str) -> None:
        nonlocal asked
        asked += (when, step) == ("before", "ciphertexts.describe")

    async with hooked_runtime(stack.settings(), count) as runtime:
        await store(runtime)
        await runtime.readiness.check()
        assert asked == 1
        for _ in range(3):
            await asyncio.sleep(1.05)  # a round of checks is kept for a second
            assert all(check.ok for check in await runtime.readiness.check())
    assert asked == 1


async def test_a_vault_that_lost_versions_of_a_key_is_told_of(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    """As in a Vault restored to before rotations, here by rows that are ahead of it."""
    _somebody, credential_id, _path = await store(runtime)
    version = newest_key_version(stack)
    await owner_conn.execute("UPDATE credentials SET transit_key_version = $1", version + 2)
    await owner_conn.execute(
        "UPDATE key_floors SET min_version = $1 WHERE transit_key = 'credentials-alpaca'", version + 1
    )
    try:
        report = await runtime.skew.quick()
        (key,) = report.keys
        assert (key.latest_version, key.floor, key.credentials, key.first_ids) == (
            version,
            version + 1,
            1,
            (credential_id,),
        )
        assert f"rotate it until its newest version is {version + 1}" in key.meaning
        assert SkewKind.KEY_VERSION_AHEAD in await kinds(runtime, credential_id)
    finally:
        await owner_conn.execute("UPDATE key_floors SET min_version = 1 WHERE transit_key = 'credentials-alpaca'")


async def test_seals_that_postgres_lacks_are_told_of_until_a_person_says_that_it_is_meant(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    await store(runtime)
    async with rotator_of(stack.settings()) as rotator:
        await rotator.sealer.run()
        assert (await runtime.skew.quick()).seals is None
        await owner_conn.execute("DELETE FROM event_seals WHERE number = (SELECT max(number) FROM event_seals)")
        report = await runtime.skew.quick()
        assert report.seals is SealSkew.CUT
        assert "Postgres lacks sealed events" in (report.advice() or "")
        await store(runtime)
        await rotator.sealer.run()
        assert (await runtime.skew.quick()).seals is SealSkew.FORKED
        stack.vault("DELETE", "credentials/metadata/event-seal")
        await store(runtime)
        await rotator.sealer.run()
    assert (await runtime.skew.quick()).fits


# --- the commands ------------------------------------------------------------------------------------------------


def run(stack: Stack, *arguments: str, rotator: bool = True) -> tuple[int, str]:
    """Runs a command with the stack's environment; its exit status, and what it printed."""
    given = stack.local.environment().items()
    environment = {name: value for name, value in given if rotator or "_ROTATOR_" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        env={**environment, "COLUMNS": "40"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout or done.stderr


async def test_the_commands_tell_each_credential_and_mend_what_can_be(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    somebody, rewrapped, path = await store(runtime, keys := pair_of_keys())
    lost_owner, lost, lost_path = await store(runtime)
    version = newest_key_version(stack)
    backup = [kv_ciphertext(stack, path, 1)]
    async with rotator_of(stack.settings()) as rotator:
        await do(rotator, owner_conn, "rotate")
        await do(rotator, owner_conn, "rewrap")
    put_back(stack, path, backup, secret=1, key_version=version)
    stack.vault("DELETE", f"credentials/metadata/{lost_path}")

    status, told = await asyncio.to_thread(run, stack, "doctor", "--full")
    assert status == 1
    assert "wrong   skew: Vault and Postgres are of different moments" in told
    # The explanation once, the ids a line each.
    assert told.count("its ciphertext is not in Vault, so it does not open") == 1
    for credential_id in (rewrapped, lost):
        assert re.search(rf"^wrong   credential {credential_id}: pin_gone", told, re.MULTILINE)

    status, told = await asyncio.to_thread(run, stack, "reconcile", "--skew")
    assert status == 1
    assert "Can be mended, with --apply (1): pinned to the version in Vault that holds its newest secret" in told
    assert told.startswith("dry run: nothing was changed\n")
    assert told.endswith("\n1 can be mended, 1 left\n")
    assert live_versions(stack, path) == {1}
    with pytest.raises(CredentialsError):
        await somebody.opens(runtime, rewrapped)

    status, told = await asyncio.to_thread(run, stack, "reconcile", "--skew", rotator=False)
    assert told.count("set the rotator's logins") == 1
    status, told = await asyncio.to_thread(run, stack, "reconcile", "--skew", "--apply", rotator=False)
    assert (status, "CREDENTIALS_ROTATOR_DATABASE_URL: is not set" in told) == (2, True)
    status, told = await asyncio.to_thread(run, stack, "reconcile", "--skew", "--apply")
    assert status == 1
    lines = told.splitlines()
    mended = next(at for at, line in enumerate(lines) if line.startswith(f"mended {rewrapped} pin_gone"))
    left = next(at for at, line in enumerate(lines) if line.startswith(f"left {lost} pin_gone"))
    assert lines[mended - 1] == "Mended (1): pinned to the version in Vault that holds its newest secret"
    assert lines[left - 1].startswith("Left (1): Vault has nothing of it")
    assert mended < left
    assert lines[-1] == "1 mended, 1 left"
    assert await somebody.opens(runtime, rewrapped) == keys

    status, told = await asyncio.to_thread(run, stack, "reconcile", "--skew", "--json")
    assert status == 1
    skew = json.loads(told)["skew"]
    assert (skew["compared"], skew["not_fitting"], skew["left"], skew["mendable"], skew["mended"]) == (2, 1, 1, 0, 0)
    (given,) = skew["credentials"]
    assert (given["id"], given["state"], given["remedy"]) == (str(lost), "left", "store_anew_or_delete")
    assert "pin_gone" in given["kinds"]
    assert skew["remedies"].keys() == {"store_anew_or_delete"}

    await lost_owner.update(runtime, lost, *pair_of_keys())
    status, told = await asyncio.to_thread(run, stack, "reconcile", "--skew", "--apply")
    assert (status, told.splitlines()[-1]) == (0, "0 mended, 0 left, 1 need nothing")
    status, told = await asyncio.to_thread(run, stack, "doctor")
    assert "ok      skew: Vault and Postgres fit, as far as all 2 credentials tell" in told
