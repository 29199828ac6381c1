"""Many credentials inserted in one statement: each is committed, or isn't, by itself, as one by one."""

import asyncio
import secrets
from dataclasses import replace
from uuid import uuid4

from service.composition import Runtime
from service.errors import ConcurrentUpdate, DatabaseNotReady, WriteInterrupted
from service.modules.records import Action, AuditAccess, Credential, Event, Outcome, WriteIntent
from service.postgres.bulk_store import BulkCredentialStore
from service.postgres.pool import Database
from tests.stored import owner, some_user, store
from tests.support import Stack
from tests.written import Connection


async def test_each_of_a_batch_is_committed_or_not_by_itself(
    stack: Stack, runtime: Runtime, owner_conn: Connection
) -> None:
    here = await runtime.reader.get(AuditAccess(actor="test"), (await store(runtime)).id)
    user = some_user()

    def draft(**reference: object) -> Credential:
        made = uuid4()
        path = f"{here.account_id}/{made}"
        fresh = replace(here.reference, binding=secrets.token_bytes(32), kv_path=path, **reference)  # type: ignore[arg-type]  # fields
        return replace(here, id=made, user_id=user, reference=fresh)

    twice = draft()
    wanted = {
        "good": draft(),
        "intent gone": draft(),
        "below the floor": draft(transit_key_version=0),
        "no floor": draft(transit_key="credentials-nobodys"),
        "first": twice,
        "second": replace(twice, reference=replace(twice.reference, binding=secrets.token_bytes(32))),
        "here": replace(draft(), id=here.id),
    }
    async with Database.open(stack.settings()) as database:
        bulk = BulkCredentialStore(database, stack.settings())

        async def insert(name: str, credential: Credential) -> Credential | None:
            path, version = credential.reference.kv_path, credential.reference.kv_version
            intent = WriteIntent(id=uuid4(), credential_id=credential.id, kv_path=path, kv_version=version)
            if name != "intent gone":
                await bulk.begin_write(intent)
            await asyncio.sleep(0)
            event = Event(
                access=owner(user),
                credential_id=credential.id,
                account_id=credential.account_id,
                action=Action.STORE,
                outcome=Outcome.DONE,
            )
            return await bulk.insert(credential, intent, event)

        results = await asyncio.gather(*(insert(*each) for each in wanted.items()), return_exceptions=True)
        await bulk.aclose()
    found = dict(zip(wanted, results, strict=True))
    assert isinstance(found["good"], Credential)
    assert found["good"].reference == wanted["good"].reference
    assert isinstance(found["intent gone"], WriteInterrupted)
    assert found["below the floor"] is None
    assert isinstance(found["no floor"], DatabaseNotReady)
    assert isinstance(found["here"], ConcurrentUpdate)
    assert {type(found["first"]), type(found["second"])} == {Credential, ConcurrentUpdate}
    rows = await owner_conn.fetch("SELECT id FROM credentials WHERE user_id = $1", user)
    assert {row["id"] for row in rows} == {wanted["good"].id, twice.id}
    events = await owner_conn.fetch("SELECT credential_id FROM credential_events WHERE user_id = $1", user)
    assert sorted(row["credential_id"] for row in events) == sorted([wanted["good"].id, twice.id])
    # What was not committed keeps its intent, so that reconciliation finds what is left of it in KV.
    left = await owner_conn.fetch(
        "DELETE FROM write_intents WHERE credential_id = ANY($1) RETURNING credential_id",
        [c.id for c in wanted.values()],
    )
    unfinished = ("below the floor", "no floor", "second", "here")
    assert sorted(row["credential_id"] for row in left) == sorted(wanted[name].id for name in unfinished)
