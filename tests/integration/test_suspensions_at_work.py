"""The kill switch at work, with two replicas: what it denies, what it cuts, and what it can't take back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.composition import Runtime
from service.errors import Suspended
from service.settings import Settings
from tests.doubles.alpaca import AlpacaStandIn
from tests.doubles.postgres_proxy import PostgresProxy
from tests.doubles.streams import Streamed
from tests.rest import Headers, new_body, problem_of, stored
from tests.stored import last_event, opened, some_user
from tests.support import Stack, serving
from tests.written import Connection

PATIENCE = 60
"""Seconds for what is to come at once or very soon: a stalled machine is not what is tested."""


@pytest.fixture(scope="module")
async def alpaca() -> AsyncIterator[AlpacaStandIn]:
    async with AlpacaStandIn() as server:
        yield server


@pytest.fixture(scope="module")
def urls(stack: Stack, alpaca: AlpacaStandIn) -> Iterator[list[str]]:
    """Two replicas on real sockets. The first never looks at what is under way (no setting allows that): what is cut
    there was cut by the suspension itself."""
    looking = stack.settings(alpaca_base_url=alpaca.url, recheck_seconds=0.1, recheck_grace_seconds=60)
    with (
        serving(looking.model_copy(update={"recheck_seconds": 3600.0})) as first,
        serving(looking) as second,
    ):
        yield [first, second]


@pytest.fixture
async def replicas(urls: list[str], alpaca: AlpacaStandIn) -> AsyncIterator[list[httpx.AsyncClient]]:
    alpaca.reset()
    async with (
        httpx.AsyncClient(base_url=urls[0], trust_env=False, timeout=PATIENCE) as first,
        httpx.AsyncClient(base_url=urls[1], trust_env=False, timeout=PATIENCE) as second,
    ):
        yield [first, second]


class Owner:
    """A user with a credential that Alpaca accepts, and an orchestrator that acts for them."""

    def __init__(self, bearer: Callable[..., Headers], alpaca: AlpacaStandIn) -> None:
        self.user_id = some_user()
        self.headers = bearer("user", self.user_id)
        self.by_orchestrator = {**bearer("orchestrator", "bot"), "X-User-Id": self.user_id}
        self._alpaca = alpaca

    async def stores(self, replica: httpx.AsyncClient, **changes: Any) -> "Owner":
        body = new_body(**changes)
        self._alpaca.open_account(body["api_key"], body["secret_key"])
        self.credential = await stored(replica, self.headers, **body)
        self.path = f"/v1/credentials/{self.credential['id']}"
        return self

    def uses(self, replica: httpx.AsyncClient) -> dict[str, Callable[[], Awaitable[httpx.Response]]]:
        """Everything over REST that has the credential decrypted."""
        order = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
        return {
            "handoff": lambda: replica.post(f"{self.path}/handoff", headers=self.by_orchestrator),
            "proxy": lambda: replica.get(f"{self.path}/proxy/v2/account", headers=self.headers),
            "trade": lambda: replica.post(f"{self.path}/proxy/v2/orders", json=order, headers=self.by_orchestrator),
            "validate": lambda: replica.post(f"{self.path}/validate", headers=self.headers),
        }


@pytest.fixture
def an_owner(
    bearer: Callable[..., Headers], alpaca: AlpacaStandIn, replicas: list[httpx.AsyncClient]
) -> Callable[..., Awaitable[Owner]]:
    return lambda **changes: Owner(bearer, alpaca).stores(replicas[0], **changes)


@pytest.fixture
def operator(bearer: Callable[..., Headers]) -> Headers:
    return bearer("operator", "olga")


def user_of(owner: Owner) -> str:
    return f"/v1/users/{owner.user_id}/suspension"


def account_of(owner: Owner) -> str:
    return f"/v1/accounts/{owner.credential['account_id']}/suspension"


async def denials(conn: Connection, owner: Owner) -> list[tuple[str, str]]:
    rows = await conn.fetch(
        "SELECT action, reason FROM credential_events WHERE credential_id = $1::text::uuid AND outcome = 'denied'"
        " ORDER BY at, id",
        owner.credential["id"],
    )
    return [(row["action"], row["reason"]) for row in rows]


# --- denied -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", [user_of, account_of], ids=["user", "account"])
async def test_after_a_suspension_nothing_is_decrypted_in_either_replica_nor_by_the_library_and_each_denial_is_recorded(
    whom: Callable[[Owner], str],
    an_owner: Callable[..., Awaitable[Owner]],
    replicas: list[httpx.AsyncClient],
    operator: Headers,
    runtime: Runtime,
    alpaca: AlpacaStandIn,
    owner_conn: Connection,
) -> None:
    owner, bystander = await an_owner(), await an_owner()
    for replica in replicas:
        for name, use in owner.uses(replica).items():
            assert (await use()).status_code == 200, name
    await opened(runtime, owner.credential["id"], owner.user_id)
    alpaca.reset()
    assert (await replicas[0].post(whom(owner), headers=operator)).status_code == 200
    expected = []
    for replica in replicas:
        for name, use in owner.uses(replica).items():
            assert problem_of(await use())[:2] == (403, "suspended"), name
            expected.append((name, "suspended"))
    with pytest.raises(Suspended):
        await opened(runtime, owner.credential["id"], owner.user_id)
    expected.append(("open", "suspended"))
    assert await denials(owner_conn, owner) == expected
    assert alpaca.seen == []
    for replica in replicas:  # and nobody else is meant
        for name, use in bystander.uses(replica).items():
            assert (await use()).status_code == 200, name
    # Lifted by the other replica, all is as before.
    assert (await replicas[1].delete(whom(owner), headers=operator)).status_code == 204
    for replica in replicas:
        for name, use in owner.uses(replica).items():
            assert (await use()).status_code == 200, name
    await opened(runtime, owner.credential["id"], owner.user_id)


async def test_an_account_is_suspended_for_every_user_who_has_it_and_for_none_of_their_others(
    an_owner: Callable[..., Awaitable[Owner]], replicas: list[httpx.AsyncClient], operator: Headers
) -> None:
    account_id = str(uuid4())
    alice, bob = await an_owner(account_id=account_id), await an_owner(account_id=account_id)
    other = await stored(replicas[0], alice.headers)
    assert (await replicas[0].post(account_of(alice), headers=operator)).status_code == 200
    for owner in (alice, bob):
        answer = await replicas[1].post(f"{owner.path}/handoff", headers=owner.by_orchestrator)
        assert problem_of(answer)[:2] == (403, "suspended")
    answer = await replicas[1].post(f"/v1/credentials/{other['id']}/handoff", headers=alice.by_orchestrator)
    assert answer.status_code == 200


async def test_whose_user_and_account_are_both_suspended_needs_both_lifted(
    an_owner: Callable[..., Awaitable[Owner]], replicas: list[httpx.AsyncClient], operator: Headers
) -> None:
    owner = await an_owner()
    for path in (user_of(owner), account_of(owner)):
        await replicas[0].post(path, headers=operator)
    for path, status in ((user_of(owner), 403), (account_of(owner), 200)):
        assert (await replicas[0].delete(path, headers=operator)).status_code == 204
        answer = await replicas[1].post(f"{owner.path}/handoff", headers=owner.by_orchestrator)
        assert answer.status_code == status


async def test_the_suspended_still_keep_their_credentials_and_what_needs_none_of_them_opened_goes_on(
    an_owner: Callable[..., Awaitable[Owner]], replicas: list[httpx.AsyncClient], operator: Headers
) -> None:
    owner = await an_owner()
    await replicas[0].post(user_of(owner), headers=operator)
    rest, headers = replicas[1], owner.headers
    keys = {name: new_body()[name] for name in ("api_key", "secret_key")}
    assert (await rest.patch(owner.path, json=keys, headers=headers)).status_code == 200
    # One key alone, and a rollback, have the other one or the former ones opened.
    for denied in (
        await rest.patch(owner.path, json={"api_key": keys["api_key"]}, headers=headers),
        await rest.post(f"{owner.path}/rollback", headers=headers),
    ):
        assert problem_of(denied)[:2] == (403, "suspended")
    assert (await rest.get(owner.path, headers=headers)).status_code == 200
    assert (await rest.patch(owner.path, json={"is_active": False}, headers=headers)).status_code == 200
    another = await stored(rest, headers)
    answer = await rest.post(f"/v1/credentials/{another['id']}/handoff", headers=owner.by_orchestrator)
    assert problem_of(answer)[:2] == (403, "suspended")
    assert (await rest.delete(owner.path, headers=headers)).status_code == 204


async def test_a_stranger_does_not_learn_that_somebody_is_suspended(
    an_owner: Callable[..., Awaitable[Owner]],
    replicas: list[httpx.AsyncClient],
    operator: Headers,
    bearer: Callable[..., Headers],
) -> None:
    owner = await an_owner()
    await replicas[0].post(user_of(owner), headers=operator)
    stranger = {**bearer("orchestrator", "bot"), "X-User-Id": some_user("stranger")}
    for path in (owner.path, f"/v1/credentials/{uuid4()}"):
        answer = await replicas[1].post(f"{path}/handoff", headers=stranger)
        assert problem_of(answer)[:2] == (404, "credential-not-found")


async def test_a_hand_off_that_is_out_lasts_until_its_time_is_over(
    an_owner: Callable[..., Awaitable[Owner]], replicas: list[httpx.AsyncClient], operator: Headers, stack: Stack
) -> None:
    owner = await an_owner()
    handed = await replicas[0].post(f"{owner.path}/handoff", json={"ttl": 300}, headers=owner.by_orchestrator)
    await replicas[0].post(user_of(owner), headers=operator)
    assert stack.vault("POST", "sys/wrapping/unwrap", token=handed.json()["wrapping_token"]).status_code == 200


# --- cut --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def streaming(
    owner: Owner, replica: httpx.AsyncClient, alpaca: AlpacaStandIn
) -> AsyncIterator[tuple[Streamed, "asyncio.Task[None]"]]:
    """A proxied call under way, of which the caller has had the first piece; and a task that reads on."""
    source = Streamed()
    alpaca.script(source)
    has_begun = asyncio.Event()

    async def read() -> None:
        async with replica.stream("GET", f"{owner.path}/proxy/v2/account", headers=owner.headers) as answer:
            assert (answer.status_code, answer.headers["x-answered-by"]) == (200, "provider")
            async for _ in answer.aiter_raw():
                has_begun.set()

    reading = asyncio.create_task(read())
    async with asyncio.timeout(PATIENCE):
        await source.started.wait()
        await source.send(b"first")
        await has_begun.wait()
    try:
        yield source, reading
    finally:
        source.end()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def is_cut(source: Streamed, reading: "asyncio.Task[None]") -> None:
    """The caller's answer breaks off, so that it is not taken for a whole one, and the provider's is given up."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(httpx.RemoteProtocolError):
            await reading
        await source.gone.wait()


@pytest.mark.parametrize("whom", [user_of, account_of], ids=["user", "account"])
async def test_proxied_calls_under_way_are_cut_in_both_replicas_and_others_go_on(
    whom: Callable[[Owner], str],
    an_owner: Callable[..., Awaitable[Owner]],
    replicas: list[httpx.AsyncClient],
    operator: Headers,
    alpaca: AlpacaStandIn,
) -> None:
    owner, bystander = await an_owner(), await an_owner()
    async with (
        streaming(owner, replicas[0], alpaca) as here,
        streaming(owner, replicas[1], alpaca) as there,
        streaming(bystander, replicas[0], alpaca) as others_here,
        streaming(bystander, replicas[1], alpaca) as others_there,
    ):
        assert (await replicas[0].post(whom(owner), headers=operator)).status_code == 200
        await is_cut(*here)
        await is_cut(*there)
        for source, reading in (others_here, others_there):
            await source.send(b"more")
            source.end()
            await reading  # whole


async def test_an_order_that_is_cut_off_once_it_was_sent_is_not_said_to_have_been_refused(
    an_owner: Callable[..., Awaitable[Owner]],
    replicas: list[httpx.AsyncClient],
    operator: Headers,
    alpaca: AlpacaStandIn,
    owner_conn: Connection,
) -> None:
    """Whoever took it for not done would send it again elsewhere, or when the suspension is over: two orders."""
    owner = await an_owner()
    alpaca.script(alpaca.silent)
    order = asyncio.ensure_future(owner.uses(replicas[1])["trade"]())
    async with asyncio.timeout(PATIENCE):
        while not alpaca.seen:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.01)
        await replicas[0].post(user_of(owner), headers=operator)
        assert problem_of(await order)[:2] == (502, "provider-outcome-unknown")
        assert await last_event(owner_conn, owner.user_id) == ("failed", "suspended")
        assert problem_of(await owner.uses(replicas[1])["trade"]())[:2] == (403, "suspended")
    assert len(alpaca.seen) == 1


@pytest.mark.parametrize("how", ["disabled", "deleted"])
async def test_calls_under_way_of_what_is_disabled_or_deleted_are_cut(
    how: str, an_owner: Callable[..., Awaitable[Owner]], replicas: list[httpx.AsyncClient], alpaca: AlpacaStandIn
) -> None:
    owner = await an_owner()
    async with streaming(owner, replicas[1], alpaca) as (source, reading):
        if how == "disabled":
            answer = await replicas[0].patch(owner.path, json={"is_active": False}, headers=owner.headers)
        else:
            answer = await replicas[0].delete(owner.path, headers=owner.headers)
        assert answer.is_success
        await is_cut(source, reading)


@asynccontextmanager
async def replica_on(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """One more, on settings of its own."""
    serving_here = serving(settings)
    url = await asyncio.to_thread(serving_here.__enter__)
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as client:
            yield client
    finally:
        await asyncio.to_thread(serving_here.__exit__, None, None, None)


LOOKING = {"recheck_seconds": 0.1, "recheck_grace_seconds": 1}


async def test_calls_under_way_are_cut_when_postgres_can_not_be_asked_for_the_grace(
    an_owner: Callable[..., Awaitable[Owner]], stack: Stack, alpaca: AlpacaStandIn
) -> None:
    owner = await an_owner()
    async with (
        PostgresProxy(stack.runtime_url) as network,
        replica_on(stack.settings(database_url=network.url, alpaca_base_url=alpaca.url, **LOOKING)) as replica,
        streaming(owner, replica, alpaca) as (source, reading),
    ):
        network.lose()
        await is_cut(source, reading)
        answer = await replica.get(f"{owner.path}/proxy/v2/account", headers=owner.headers)
        assert problem_of(answer)[:2] == (503, "database-unavailable")


async def test_what_is_cut_because_nobody_could_say_whether_it_is_allowed_is_an_event_too(
    an_owner: Callable[..., Awaitable[Owner]], stack: Stack, alpaca: AlpacaStandIn, owner_conn: Connection
) -> None:
    owner = await an_owner()
    settings = stack.settings(alpaca_base_url=alpaca.url, database_timeout=1, **LOOKING)
    async with replica_on(settings) as replica, asyncio.timeout(PATIENCE):
        alpaca.script(alpaca.silent)
        order = asyncio.ensure_future(owner.uses(replica)["trade"]())
        while not alpaca.seen:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.01)
        async with owner_conn.transaction():
            await owner_conn.execute("LOCK TABLE credentials")  # what asks about uses waits; what records doesn't
            assert problem_of(await order)[:2] == (502, "provider-outcome-unknown")
            assert await last_event(owner_conn, owner.user_id) == ("failed", "outcome_unknown")
        async with streaming(owner, replica, alpaca) as (source, reading), owner_conn.transaction():
            await owner_conn.execute("LOCK TABLE credentials")
            await is_cut(source, reading)
            assert await last_event(owner_conn, owner.user_id) == ("failed", "unavailable")
