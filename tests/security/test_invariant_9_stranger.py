"""Invariant 9: a stranger learns nothing. Another user's credential answers exactly as one that does not exist."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from service.composition import Runtime
from service.errors import CredentialNotFound
from service.memory.plaintext import Plaintext
from service.modules.credential_writer import NewCredential
from service.modules.records import CredentialFilter, EventFilter, OwnerAccess
from tests.stored import Stored, opened, owner, some_user, store, update
from tests.support import canary
from tests.written import Connection

Attempt = Callable[[Runtime, OwnerAccess, UUID], Awaitable[object]]


async def _update(runtime: Runtime, access: OwnerAccess, credential_id: UUID, secret: str | None = None) -> object:
    with Plaintext.copy_of(secret or canary()) as key:
        return await runtime.writer.update(
            access, credential_id, api_key=None, secret_key=key, is_active=None, if_match=None
        )


async def _reveal(runtime: Runtime, access: OwnerAccess, credential_id: UUID, kind: str | None = None) -> object:
    async with runtime.opener.reveal(access, credential_id, credential_type=kind) as keys:
        return keys


def _set_active(is_active: bool) -> Attempt:
    return lambda runtime, access, wanted: runtime.writer.update(
        access, wanted, api_key=None, secret_key=None, is_active=is_active, if_match=None
    )


NO_VERSION: frozenset[int] = frozenset()
ATTEMPTS: dict[str, Attempt] = {
    "get": lambda runtime, access, wanted: runtime.reader.get(access, wanted),
    "open": _reveal,
    "open as its type": lambda runtime, access, wanted: _reveal(runtime, access, wanted, "alpaca"),
    "open as another type": lambda runtime, access, wanted: _reveal(runtime, access, wanted, "polygon"),
    "validate": lambda runtime, access, wanted: runtime.validator.validate_stored(access, wanted),
    "update": _update,
    "update with a wrong key": lambda runtime, access, wanted: _update(runtime, access, wanted, "\n"),
    "enable": _set_active(True),
    "disable": _set_active(False),
    "rollback": lambda runtime, access, wanted: runtime.writer.rollback(access, wanted, if_match=None),
    "rollback of its version": lambda runtime, access, wanted: runtime.writer.rollback(
        access, wanted, if_match=frozenset({2})
    ),
    "rollback of another version": lambda runtime, access, wanted: runtime.writer.rollback(
        access, wanted, if_match=NO_VERSION
    ),
    "delete": lambda runtime, access, wanted: runtime.writer.delete(access, wanted, if_match=None),
    "delete of another version": lambda runtime, access, wanted: runtime.writer.delete(
        access, wanted, if_match=NO_VERSION
    ),
    "events": lambda runtime, access, wanted: runtime.reader.events(access, EventFilter(credential_id=wanted), None, 9),
    "events of an action": lambda runtime, access, wanted: runtime.reader.events(
        access, EventFilter(credential_id=wanted, action="store"), None, 9
    ),
}


@dataclass(frozen=True)
class Answered:
    """All that a caller can tell one refusal from another by."""

    kind: type[BaseException]
    text: str
    arguments: tuple[object, ...]
    attributes: dict[str, object]
    has_cause: bool


async def answer(attempt: Attempt, runtime: Runtime, user: str, wanted: UUID) -> Answered:
    with pytest.raises(CredentialNotFound) as refused:
        await attempt(runtime, owner(user), wanted)
    error = refused.value
    return Answered(type(error), str(error), error.args, vars(error), error.__cause__ is not None)


@pytest.fixture
async def stored(runtime: Runtime) -> Stored:
    """Somebody's credential, with a kept previous secret."""
    return await update(runtime, await store(runtime, some_user("alice")))


@pytest.mark.parametrize("state", ["active", "disabled", "deleted", "damaged"])
@pytest.mark.parametrize("name", ATTEMPTS)
async def test_another_users_credential_answers_as_one_that_does_not_exist(
    runtime: Runtime, owner_conn: Connection, stored: Stored, name: str, state: str
) -> None:
    if state == "disabled":
        await owner_conn.execute("UPDATE credentials SET is_active = false WHERE id = $1", stored.id)
    elif state == "deleted":
        await runtime.writer.delete(stored.access, stored.id, if_match=None)
    elif state == "damaged":
        await owner_conn.execute("UPDATE credentials SET kv_path = 'x', broken_since = now() WHERE id = $1", stored.id)
    stranger = some_user("stranger")
    others = await answer(ATTEMPTS[name], runtime, stranger, stored.id)
    absent = await answer(ATTEMPTS[name], runtime, stranger, uuid4())
    assert others == absent
    assert others.kind is CredentialNotFound


async def test_a_strangers_attempts_change_nothing(runtime: Runtime, owner_conn: Connection, stored: Stored) -> None:
    before = await owner_conn.fetchrow("SELECT * FROM credentials WHERE id = $1", stored.id)
    for attempt in ATTEMPTS.values():
        await answer(attempt, runtime, some_user("stranger"), stored.id)
    assert await owner_conn.fetchrow("SELECT * FROM credentials WHERE id = $1", stored.id) == before
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def test_a_stranger_finds_neither_credential_nor_event_in_any_list(runtime: Runtime, stored: Stored) -> None:
    stranger = owner(some_user("stranger"))
    for attempt in ATTEMPTS.values():
        await answer(attempt, runtime, stranger.user_id, stored.id)
    for wanted in (CredentialFilter(), CredentialFilter(account_id=stored.account_id)):
        assert await runtime.reader.page(stranger, wanted, None, 100) == []
    for chosen in (EventFilter(), EventFilter(user_id=stored.user_id), EventFilter(outcome="denied")):
        assert await runtime.reader.events(stranger, chosen, None, 100) == []


async def test_a_strangers_attempts_do_not_show_in_the_owners_history_either(runtime: Runtime, stored: Stored) -> None:
    """The owner's own history is what was done as them; who else tried is for auditors."""
    stranger = some_user("stranger")
    await answer(_reveal, runtime, stranger, stored.id)
    events = await runtime.reader.events(stored.access, EventFilter(credential_id=stored.id), None, 100)
    assert events
    assert {event.acting_user for event in events} == {stored.user_id}


async def test_auditors_can_tell_the_two_apart_by_the_events(
    runtime: Runtime, owner_conn: Connection, stored: Stored
) -> None:
    stranger = some_user("stranger")
    await answer(_reveal, runtime, stranger, stored.id)
    await answer(_reveal, runtime, stranger, uuid4())
    rows = await owner_conn.fetch(
        "SELECT reason, user_id FROM credential_events WHERE acting_user = $1 ORDER BY at, id", stranger
    )
    assert [tuple(row) for row in rows] == [("not_owner", stored.user_id), ("not_found", None)]


async def test_an_account_id_of_somebody_elses_can_be_used_and_says_nothing(runtime: Runtime, stored: Stored) -> None:
    stranger = owner(some_user("stranger"))
    with Plaintext.copy_of(canary()) as api, Plaintext.copy_of(canary()) as secret:
        made = await runtime.writer.store(stranger, NewCredential(stored.account_id, "alpaca", api, secret))
    listed = await runtime.reader.page(stranger, CredentialFilter(account_id=stored.account_id), None, 100)
    assert [each.id for each in listed] == [made.id]
    assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def test_an_idempotency_key_of_somebody_elses_answers_with_nothing_of_theirs(runtime: Runtime) -> None:
    key, account = str(uuid4()), uuid4()
    alice, stranger = owner(some_user("alice")), owner(some_user("stranger"))
    with Plaintext.copy_of(canary()) as api, Plaintext.copy_of(canary()) as secret:
        new = NewCredential(account, "alpaca", api, secret)
        hers = await runtime.writer.store(alice, new, idempotency_key=key)
        theirs = await runtime.writer.store(stranger, new, idempotency_key=key)
    assert theirs.id != hers.id
    assert theirs.user_id == stranger.user_id
