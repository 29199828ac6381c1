"""Uses that may not go on are cut off: which, when, and what they are told."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from uuid import uuid4

import pytest

from service.errors import CredentialInactive, CredentialNotFound, CredentialsError, DatabaseUnavailable, Suspended
from service.modules import uses_under_way
from service.modules.control_ports import Suspendable
from tests.unit.under_way import Postgres, access, alices, begun, lasting, stopped, watching

# --- who is cut, and why ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Suspended, CredentialInactive, CredentialNotFound])
async def test_a_use_that_may_not_go_on_is_cut_by_the_next_look_and_says_why(reason: type[CredentialsError]) -> None:
    postgres = Postgres()
    uses = watching(postgres)
    cut, other = await begun(uses, lasting(uses, "alice"), lasting(uses, "bob"))
    postgres.denied["alice"] = reason()
    with pytest.raises(reason):
        await cut
    for _ in range(3):
        looks = len(postgres.asked)
        while len(postgres.asked) == looks:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    assert not other.done()
    await stopped([other])
    await uses.aclose()


async def test_a_user_who_is_suspended_here_is_cut_without_a_look() -> None:
    postgres = Postgres()
    uses = watching(postgres, recheck=3600)
    alice, also_alice, bob = await begun(uses, lasting(uses, "alice"), lasting(uses, "alice"), lasting(uses, "bob"))
    uses.cut(Suspendable(user_id="alice"))
    for cut in (alice, also_alice):
        with pytest.raises(Suspended):
            await cut
    assert (postgres.asked, uses.count, bob.done()) == ([], 1, False)
    await stopped([bob])
    await uses.aclose()


async def test_an_account_that_is_suspended_here_is_cut_for_every_user_who_has_it() -> None:
    uses = watching(Postgres(), recheck=3600)
    account_id = uuid4()
    alice, bob, other = await begun(
        uses,
        lasting(uses, "alice", alices(account_id)),
        lasting(uses, "bob", alices(account_id)),
        lasting(uses, "alice"),
    )
    uses.cut(Suspendable(account_id=account_id))
    for cut in (alice, bob):
        with pytest.raises(Suspended):
            await cut
    assert not other.done()
    await stopped([other])
    await uses.aclose()


async def test_what_was_granted_before_a_suspension_here_and_begins_after_it_does_not_begin() -> None:
    postgres = Postgres()
    uses = watching(postgres, recheck=3600)
    uses.cut(Suspendable(user_id="alice"))
    postgres.denied["alice"] = Suspended()
    entered = []
    for user_id in ("alice", "bob"):
        with suppress(Suspended):
            async with uses.watched(access(user_id), alices()):
                entered.append(user_id)
    assert (entered, len(postgres.asked), uses.count) == (["bob"], 2, 0)
    await uses.aclose()


async def test_whether_it_may_begin_could_not_be_asked_so_it_does_not() -> None:
    postgres = Postgres()
    uses = watching(postgres, recheck=3600)
    uses.cut(Suspendable(user_id="eve"))
    postgres.failures = 1
    with pytest.raises(DatabaseUnavailable):
        async with uses.watched(access(), alices()):
            pytest.fail("it began")
    assert uses.count == 0
    await uses.aclose()


async def test_a_short_use_costs_no_statement_and_leaves_nobody_looking() -> None:
    postgres = Postgres()
    uses = watching(postgres, recheck=0.001)
    for _ in range(3):
        async with uses.watched(access(), alices()):
            pass
    while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - until the one that looks has ended
        await asyncio.sleep(0)
    assert (postgres.asked, uses.count) == ([], 0)
    (task,) = await begun(uses, lasting(uses))  # and it is looked after all the same
    postgres.denied["alice"] = Suspended()
    with pytest.raises(Suspended):
        await task
    await uses.aclose()


async def test_all_that_is_under_way_is_looked_at_in_one_statement_each_credential_once() -> None:
    postgres = Postgres()
    uses = watching(postgres)
    shared = alices()
    tasks = await begun(uses, *(lasting(uses, "alice", shared) for _ in range(5)), lasting(uses, "bob"))
    while not postgres.asked:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)
    assert sorted(user_id for user_id, _ in postgres.asked[0]) == ["alice", "bob"]
    postgres.denied["alice"] = Suspended()
    for cut in tasks[:5]:
        with pytest.raises(Suspended):
            await cut
    await stopped(tasks[5:])
    await uses.aclose()


# --- Postgres does not answer -----------------------------------------------------------------------------------------


async def test_postgres_that_fails_for_the_grace_has_uses_cut() -> None:
    postgres = Postgres()
    postgres.failures = 1_000_000
    uses = watching(postgres, grace=0.05)
    (task,) = await begun(uses, lasting(uses))
    with pytest.raises(DatabaseUnavailable) as cut:
        await task
    assert cut.value.retry_after is not None
    assert len(postgres.asked) > 1
    await uses.aclose()


async def test_postgres_that_is_silent_for_the_grace_has_uses_cut() -> None:
    postgres = Postgres()
    postgres.silent = True
    uses = watching(postgres, grace=0.05)
    (task,) = await begun(uses, lasting(uses))
    with pytest.raises(DatabaseUnavailable):
        await task
    await uses.aclose()


async def test_postgres_that_fails_for_less_than_the_grace_cuts_nothing() -> None:
    postgres = Postgres()
    postgres.failures = 5
    uses = watching(postgres)
    (task,) = await begun(uses, lasting(uses))
    while len(postgres.asked) < 8:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)
    assert not task.done()
    postgres.denied["alice"] = Suspended()
    with pytest.raises(Suspended):
        await task
    await uses.aclose()


async def test_a_process_that_stood_still_for_longer_than_the_grace_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It finds one look's time run out, and is answered when it asks once more."""
    now = 0.0
    monkeypatch.setattr(uses_under_way, "time", SimpleNamespace(monotonic=lambda: now))
    postgres = Postgres()
    uses = watching(postgres, grace=100)
    (task,) = await begun(uses, lasting(uses))
    for _ in range(3):
        seen = len(postgres.asked)
        now += 1000.0  # what began before has no time left
        postgres.failures = 1
        while len(postgres.asked) < seen + 3:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        assert not task.done()
    postgres.denied["alice"] = Suspended()
    with pytest.raises(Suspended):
        await task
    await uses.aclose()


async def test_the_grace_begins_with_the_last_look_that_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(uses_under_way, "time", SimpleNamespace(monotonic=lambda: now))
    postgres = Postgres()
    uses = watching(postgres, grace=100)
    (task,) = await begun(uses, lasting(uses))

    async def looks(count: int) -> None:
        seen = len(postgres.asked)
        while len(postgres.asked) < seen + count and not task.done():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)

    await looks(2)
    now = 99.0
    await looks(2)  # the second of them began after the clock was moved
    postgres.failures = 1_000_000
    now = 198.0
    await looks(3)
    assert not task.done()
    now = 200.0
    with pytest.raises(DatabaseUnavailable):
        await task
    await uses.aclose()


async def test_closing_cuts_nothing() -> None:
    uses = watching(Postgres())
    (task,) = await begun(uses, lasting(uses))
    await uses.aclose()
    assert not task.done()
    await stopped([task])
