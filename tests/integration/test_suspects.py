"""Keys that their provider refuses: noted, cleared, disabled by itself where that is wanted and is not its fault."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.background import sweeping
from service.composition import Runtime
from tests.doubles.alpaca import AlpacaStandIn, forbidden, throttled, unauthorized
from tests.doubles.scripted_server import json_answer
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.stored import some_user, store, update
from tests.support import Stack
from tests.written import Connection

PATIENCE = 60


@pytest.fixture(scope="module")
async def alpaca() -> AsyncIterator[AlpacaStandIn]:
    async with AlpacaStandIn() as server:
        yield server


@pytest.fixture(scope="module")
async def rest(stack: Stack, alpaca: AlpacaStandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with client_on(stack.settings(alpaca_base_url=alpaca.url)) as client:
        yield client


class Somebody:
    """A user with one credential, whose keys Alpaca knows or not."""

    def __init__(self, rest: httpx.AsyncClient, headers: Headers, alpaca: AlpacaStandIn, conn: Connection) -> None:
        self._rest, self.headers, self._alpaca, self._conn = rest, headers, alpaca, conn
        body = new_body()
        self.body, self.keys = body, (body["api_key"], body["secret_key"])

    async def stores(self) -> "Somebody":
        self.id = (await stored(self._rest, self.headers, **self.body))["id"]
        self.path = f"/v1/credentials/{self.id}"
        return self

    async def validates(self) -> httpx.Response:
        return await self._rest.post(f"{self.path}/validate", headers=self.headers)

    async def calls(self) -> httpx.Response:
        return await self._rest.get(f"{self.path}/proxy/v2/account", headers=self.headers)

    async def suspect_since(self) -> Any:
        return (await self._rest.get(self.path, headers=self.headers)).json()["suspect_since"]

    async def noted(self) -> list[tuple[str, str, str]]:
        """The events about suspicion: what, outcome, why; as its owner sees them, oldest first."""
        events = (await self._rest.get(f"{self.path}/events", headers=self.headers)).json()["events"]
        return [
            (event["action"], event["outcome"], event["reason"])
            for event in events[::-1]
            if event["action"] in ("suspect", "clear", "disable")
        ]


@pytest.fixture
async def somebody(
    rest: httpx.AsyncClient, bearer: Callable[..., Headers], alpaca: AlpacaStandIn, owner_conn: Connection
) -> Somebody:
    alpaca.reset()
    return await Somebody(rest, bearer("user", some_user()), alpaca, owner_conn).stores()


REFUSED, ACCEPTED = ("suspect", "done", "refused"), ("clear", "done", "accepted")


@pytest.mark.parametrize("ask", [Somebody.validates, Somebody.calls], ids=["validated", "called"])
async def test_refused_keys_are_suspect_from_the_first_refusal_until_they_are_accepted_with_one_event_each(
    ask: Callable[[Somebody], Any], somebody: Somebody, alpaca: AlpacaStandIn
) -> None:
    assert await somebody.suspect_since() is None
    etag = (await somebody._rest.get(somebody.path, headers=somebody.headers)).headers["etag"]
    await ask(somebody)
    since = await somebody.suspect_since()
    assert since is not None
    await ask(somebody)
    assert await somebody.suspect_since() == since
    assert await somebody.noted() == [REFUSED]
    alpaca.open_account(*somebody.keys)
    await ask(somebody)
    await ask(somebody)
    assert await somebody.suspect_since() is None
    assert await somebody.noted() == [REFUSED, ACCEPTED]
    shown = await somebody._rest.get(somebody.path, headers=somebody.headers)
    assert (shown.headers["etag"], shown.json()["is_active"]) == (etag, True)  # nothing that a user changed


@pytest.mark.parametrize("status", [403, 404, 422, 429, 500, 503])
async def test_what_is_about_the_call_and_not_about_the_keys_neither_makes_suspect_nor_clears(
    status: int, somebody: Somebody, alpaca: AlpacaStandIn
) -> None:
    answer = forbidden() if status == 403 else json_answer(status, {"message": "no"})
    alpaca.script(answer, unauthorized(), answer)
    assert (await somebody.calls()).status_code == status
    assert await somebody.suspect_since() is None
    assert (await somebody.calls()).status_code == 401
    since = await somebody.suspect_since()
    assert (await somebody.calls()).status_code == status
    assert (await somebody.suspect_since(), since is not None) == (since, True)
    assert await somebody.noted() == [REFUSED]


async def test_suspects_can_be_listed(somebody: Somebody, rest: httpx.AsyncClient) -> None:
    other = await stored(rest, somebody.headers)
    await somebody.validates()
    for asked, found in (("true", [somebody.id]), ("false", [other["id"]])):
        listed = await rest.get(f"/v1/credentials?suspect={asked}", headers=somebody.headers)
        assert [each["id"] for each in listed.json()["credentials"]] == found


async def test_new_keys_are_no_suspects_and_of_no_known_account_type(
    somebody: Somebody, rest: httpx.AsyncClient, alpaca: AlpacaStandIn
) -> None:
    alpaca.open_account(*somebody.keys)
    await somebody.validates()
    alpaca.close_account(*somebody.keys)
    await somebody.calls()
    shown = (await rest.get(somebody.path, headers=somebody.headers)).json()
    assert (shown["account_type"], shown["validation_state"]) == ("paper", "valid")
    assert shown["suspect_since"] is not None
    new = {name: new_body()[name] for name in ("api_key", "secret_key")}
    shown = (await rest.patch(somebody.path, json=new, headers=somebody.headers)).json()
    known = (shown["account_type"], shown["validation_state"], shown["suspect_since"], shown["last_validated_at"])
    assert known == (None, "unvalidated", None, None)


async def test_what_a_provider_says_of_keys_that_were_replaced_meanwhile_is_not_noted(
    runtime: Runtime, owner_conn: Connection
) -> None:
    made = await store(runtime)
    before = await runtime.reader.get(made.access, made.id)
    await update(runtime, made)
    await runtime.suspects.refused(made.access, before)
    now = await runtime.reader.get(made.access, made.id)
    assert now.suspect_since is None
    await runtime.suspects.refused(made.access, now)
    suspect = await runtime.reader.get(made.access, made.id)
    await update(runtime, made)
    newest = await runtime.reader.get(made.access, made.id)
    await runtime.suspects.refused(made.access, newest)
    await runtime.suspects.accepted(made.access, suspect)
    assert (await runtime.reader.get(made.access, made.id)).suspect_since is not None
    events = await owner_conn.fetch(
        "SELECT action FROM credential_events WHERE credential_id = $1 AND action IN ('suspect', 'clear')", made.id
    )
    assert [row["action"] for row in events] == ["suspect", "suspect"]


async def test_many_refusals_at_once_are_one_suspicion(runtime: Runtime, owner_conn: Connection) -> None:
    made = await store(runtime)
    credential = await runtime.reader.get(made.access, made.id)
    await asyncio.gather(*(runtime.suspects.refused(made.access, credential) for _ in range(8)))
    for table in ("suspect_turns", "credential_events WHERE action = 'suspect' AND true"):
        joined = "AND" if "WHERE" in table else "WHERE"
        assert await owner_conn.fetchval(f"SELECT count(*) FROM {table} {joined} credential_id = $1", made.id) == 1


# --- Retry-After ------------------------------------------------------------------------------------------------------


async def test_a_provider_that_says_when_to_ask_again_is_not_asked_about_that_credential_before(
    somebody: Somebody, rest: httpx.AsyncClient, alpaca: AlpacaStandIn
) -> None:
    alpaca.script(throttled("600"))
    assert problem_of(await somebody.validates()) == (503, "provider-throttled", "600")
    for _ in range(3):
        status, name, seconds = problem_of(await somebody.validates())
        assert (status, name) == (503, "provider-throttled")
        assert seconds is not None
        assert 0 < int(seconds) <= 600
    assert len(alpaca.seen) == 1
    other = (await stored(rest, somebody.headers))["id"]  # another credential is another account's
    assert (await rest.post(f"/v1/credentials/{other}/validate", headers=somebody.headers)).status_code == 200
    new = {name: new_body()[name] for name in ("api_key", "secret_key")}
    await rest.patch(somebody.path, json=new, headers=somebody.headers)
    assert (await somebody.validates()).status_code == 200
    assert len(alpaca.seen) == 3


# --- disabled by itself -----------------------------------------------------------------------------------------------

SECONDS, AT_ONCE = 60.0, 3


class Swept:
    """Credentials of one moment in the past that no other test's are near to, made suspect as if it was then."""

    def __init__(self, runtime: Runtime, conn: Connection, minutes_ago: int) -> None:
        self._runtime, self._conn = runtime, conn
        self._when = timedelta(minutes=minutes_ago)

    async def suspect(self, later: float = 0, credential_type: str = "alpaca") -> UUID:
        """One that turned suspect `later` seconds after that moment."""
        made = await store(self._runtime, credential_type=credential_type)
        await self._runtime.suspects.refused(made.access, await self._runtime.reader.get(made.access, made.id))
        moment = self._when - timedelta(seconds=later)
        await self._conn.execute(
            "UPDATE suspect_turns SET at = now() - $2::interval WHERE credential_id = $1", made.id, moment
        )
        await self._conn.execute(
            "UPDATE credentials SET suspect_since = t.at FROM suspect_turns t WHERE id = $1 AND t.credential_id = id",
            made.id,
        )
        return made.id

    async def disabled(self, *credential_ids: UUID) -> list[bool]:
        """Which of them a sweep disables."""
        active = "SELECT id FROM credentials WHERE is_active AND id = ANY($1)"
        before = {row["id"] for row in await self._conn.fetch(active, credential_ids)}
        found = await self._runtime.suspects.sweep(seconds=SECONDS, at_once=AT_ONCE)
        after = {row["id"] for row in await self._conn.fetch(active, credential_ids)}
        assert after == before - set(found)
        return [credential_id in found for credential_id in credential_ids]

    async def execute(self, statement: str, *arguments: object) -> None:
        await self._conn.execute(statement, *arguments)


@pytest.fixture
def at(runtime: Runtime, owner_conn: Connection) -> Callable[[int], Swept]:
    return lambda minutes_ago: Swept(runtime, owner_conn, minutes_ago)


async def test_what_stays_suspect_is_disabled_once_with_an_event_that_its_owner_sees(
    at: Callable[[int], Swept], runtime: Runtime, owner_conn: Connection
) -> None:
    swept = at(100)
    alone = await swept.suspect()
    before = await owner_conn.fetchrow("SELECT * FROM credentials WHERE id = $1", alone)
    assert before is not None
    assert await swept.disabled(alone) == [True]
    assert await swept.disabled(alone) == [False]
    after = await owner_conn.fetchrow("SELECT * FROM credentials WHERE id = $1", alone)
    assert after is not None
    assert after["row_version"] == before["row_version"] + 1
    assert after["updated_at"] > before["updated_at"]
    events = await owner_conn.fetch(
        "SELECT actor, acting_user, outcome, reason FROM credential_events"
        " WHERE credential_id = $1 AND action = 'disable'",
        alone,
    )
    assert [tuple(row) for row in events] == [("service", before["user_id"], "done", "suspect")]


async def test_two_sweeps_at_once_disable_once(
    at: Callable[[int], Swept], runtime: Runtime, owner_conn: Connection
) -> None:
    ids = {await at(200 + 10 * number).suspect() for number in range(4)}
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%suspect_turns%'"
    async with asyncio.timeout(PATIENCE):
        async with owner_conn.transaction():
            # All of them have seen what is to be disabled before any of them can disable it.
            await owner_conn.execute("SELECT FROM credentials WHERE id = ANY($1) FOR UPDATE", list(ids))
            sweeps = [asyncio.create_task(runtime.suspects.sweep(seconds=SECONDS, at_once=AT_ONCE)) for _ in range(2)]
            while await owner_conn.fetchval(waiting) < 2:
                await asyncio.sleep(0.02)
                await owner_conn.execute("SELECT pg_stat_clear_snapshot()")
        swept = await asyncio.gather(*sweeps)
    disabled = [each for one in swept for each in one if each in ids]
    assert sorted(disabled) == sorted(ids)
    count = "SELECT count(*) FROM credential_events WHERE credential_id = ANY($1) AND action = 'disable'"
    assert await owner_conn.fetchval(count, list(ids)) == len(ids)


async def test_what_has_only_just_turned_suspect_is_left_alone(at: Callable[[int], Swept]) -> None:
    swept = at(0)
    assert await swept.disabled(await swept.suspect()) == [False]


async def test_as_many_as_that_at_once_are_the_providers_fault_and_one_fewer_are_theirs(
    at: Callable[[int], Swept],
) -> None:
    swept = at(300)
    two = [await swept.suspect(), await swept.suspect(later=59)]
    assert await swept.disabled(*two) == [True, True]
    swept = at(320)
    three = [await swept.suspect(), await swept.suspect(later=30), await swept.suspect(later=59)]
    assert await swept.disabled(*three) == [False, False, False]
    swept = at(340)
    # Of another type, and further away than that, they are no company.
    apart = [await swept.suspect(), await swept.suspect(later=61), await swept.suspect(later=122)]
    others = [await swept.suspect(credential_type="polygon") for _ in range(2)]
    assert await swept.disabled(*apart, *others) == [True] * 5


@pytest.mark.parametrize("then", ["cleared", "deleted", "disabled", "turned again"])
async def test_the_providers_fault_stays_that_whatever_becomes_of_the_others(
    then: str, at: Callable[[int], Swept]
) -> None:
    minutes = {"cleared": 400, "deleted": 420, "disabled": 440, "turned again": 460}[then]
    swept = at(minutes)
    kept, *others = [await swept.suspect(later=later) for later in (0, 1, 2)]
    changes = {
        "cleared": "UPDATE credentials SET suspect_since = NULL WHERE id = ANY($1)",
        "deleted": "DELETE FROM credentials WHERE id = ANY($1)",
        "disabled": "UPDATE credentials SET is_active = false WHERE id = ANY($1)",
        "turned again": "UPDATE credentials SET suspect_since = now() WHERE id = ANY($1)",
    }
    await swept.execute(changes[then], others)
    assert await swept.disabled(kept) == [False]


async def test_one_user_can_not_make_others_look_like_the_providers_fault(
    at: Callable[[int], Swept], owner_conn: Connection
) -> None:
    """By made-up keys, say, which are deleted again; but many of one user's own are no more than one's fault."""
    swept = at(480)
    victim, *made_up = [await swept.suspect(later=later) for later in (0, 1, 2, 3)]
    mallory = "UPDATE suspect_turns SET user_id = 'mallory' WHERE credential_id = ANY($1)"
    await swept.execute(mallory, made_up)
    await swept.execute("UPDATE credentials SET user_id = 'mallory' WHERE id = ANY($1)", made_up)
    assert await swept.disabled(victim, *made_up) == [True, False, False, False]


async def test_one_credential_that_turns_suspect_again_and_again_is_one(at: Callable[[int], Swept]) -> None:
    swept = at(500)
    alone = await swept.suspect()
    for _ in range(5):
        await swept.execute(
            "INSERT INTO suspect_turns SELECT * FROM suspect_turns WHERE credential_id = $1 LIMIT 1", alone
        )
    assert await swept.disabled(alone) == [True]


async def test_what_has_been_accepted_since_or_is_a_week_old_is_left_alone(at: Callable[[int], Swept]) -> None:
    swept = at(520)
    cleared = await swept.suspect()
    await swept.execute("UPDATE credentials SET suspect_since = NULL WHERE id = $1", cleared)
    old = await at(7 * 24 * 60 + 60).suspect()
    assert await swept.disabled(cleared, old) == [False, False]


async def test_nothing_is_disabled_by_itself_unless_a_setting_says_so(
    stack: Stack, at: Callable[[int], Swept], owner_conn: Connection
) -> None:
    assert not stack.settings().disable_suspects
    suspect = await at(600).suspect()
    for wanted in (False, True):
        settings = stack.settings(disable_suspects=wanted, suspect_seconds=SECONDS, suspects_at_once=AT_ONCE)
        async with Runtime.open(settings, background=True):
            names = {task.get_name() for task in asyncio.all_tasks()}
            assert ("looking at suspects" in names) == wanted
            active = "SELECT is_active FROM credentials WHERE id = $1"
            async with asyncio.timeout(PATIENCE):
                while wanted and await owner_conn.fetchval(active, suspect):  # noqa: ASYNC110 - only asking tells
                    await asyncio.sleep(0.02)
            assert await owner_conn.fetchval(active, suspect) != wanted


async def test_a_sweep_that_fails_is_tried_again(stack: Stack) -> None:
    class Failing:
        tries = 0

        async def sweep(self, **_: object) -> list[UUID]:
            self.tries += 1
            if self.tries == 1:
                raise ValueError
            return []

    failing: Any = Failing()
    async with sweeping(failing, stack.settings(suspect_seconds=0.01)), asyncio.timeout(PATIENCE):
        while failing.tries < 3:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.01)
