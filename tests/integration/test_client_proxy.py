"""Calls to a stand-in Alpaca through the service: the client has no keys, and what changes something is sent once."""

import json
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import httpx
import pytest

from service.client import CredentialsClient
from service.errors import (
    AccountTypeRefused,
    CredentialNotFound,
    ProviderOutcomeUnknown,
    ProxyRefused,
    ServiceOutcomeUnknown,
    ServiceUnavailable,
    Suspended,
)
from tests.doubles.alpaca import LIVE_NUMBER, AlpacaStandIn
from tests.doubles.raw_server import (
    RawServer,
    Script,
    answer,
    sends,
    sends_and_closes,
    sends_and_resets,
    sends_and_stalls,
)
from tests.doubles.scripted_server import json_answer, reset_answer
from tests.doubles.streams import Endless, Streamed
from tests.handed import client_for, stored_by, tradable
from tests.support import Stack, serving
from tests.written import Somebody, pair_of_keys

ORDER = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
CUT_SHORT = b"HTTP/1.1 200 OK\r\nX-Answered-By: provider\r\nContent-Length: 100\r\n\r\n{"


@pytest.fixture(scope="module")
async def alpaca() -> AsyncIterator[AlpacaStandIn]:
    async with AlpacaStandIn() as server:
        yield server


@pytest.fixture(scope="module")
def service(stack: Stack, alpaca: AlpacaStandIn) -> Iterator[str]:
    with serving(stack.settings(alpaca_base_url=alpaca.url)) as url:
        yield url


@pytest.fixture(scope="module")
async def client(service: str, stack: Stack) -> AsyncIterator[CredentialsClient]:
    async with client_for(service, stack) as made:
        yield made


@pytest.fixture
async def known(client: CredentialsClient, alpaca: AlpacaStandIn) -> AsyncIterator[tuple[str, Somebody]]:
    """A credential that trades, and whose it is."""
    somebody = Somebody()
    made, _ = await tradable(client, alpaca, somebody)
    alpaca.reset()
    yield made.id, somebody
    alpaca.reset()


Known = tuple[str, Somebody]


async def test_an_order_is_placed_without_the_client_having_a_key(
    client: CredentialsClient, alpaca: AlpacaStandIn, known: Known
) -> None:
    made, somebody = known
    placed = await client.proxy(made, "POST", "/v2/orders", user_id=somebody.user_id, json=ORDER)
    assert placed.status_code == 200
    assert placed.json()["symbol"] == "AAPL"
    assert len(alpaca.seen) == 1
    assert json.loads(alpaca.seen[0].body or b"") == ORDER
    listed = await client.proxy(made, "GET", "v2/orders", user_id=somebody.user_id, params={"status": "all"})
    assert [each["id"] for each in listed.json()] == [placed.json()["id"]]
    head = await client.proxy(made, "HEAD", "v2/account", user_id=somebody.user_id)
    assert (head.status_code, head.content) == (200, b"")


async def test_a_providers_refusal_is_its_answer_and_no_exception(client: CredentialsClient, known: Known) -> None:
    made, somebody = known
    refused = await client.proxy(made, "POST", "v2/orders", user_id=somebody.user_id, json=ORDER | {"qty": "100000000"})
    assert (refused.status_code, refused.is_success) == (403, False)
    assert refused.json()["message"] == "insufficient buying power"
    assert refused.headers["x-answered-by"] == "provider"


async def test_an_order_whose_answer_is_cut_off_was_sent_once_and_may_have_been_placed(
    client: CredentialsClient, alpaca: AlpacaStandIn, known: Known
) -> None:
    made, somebody = known
    alpaca.script(reset_answer)
    with pytest.raises(ProviderOutcomeUnknown):
        await client.proxy(made, "POST", "v2/orders", user_id=somebody.user_id, json=ORDER)
    assert len(alpaca.seen) == 1


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (sends_and_resets(), ServiceOutcomeUnknown),
        (sends_and_closes(), ServiceOutcomeUnknown),
        (sends_and_closes(CUT_SHORT), ServiceOutcomeUnknown),
        (sends(answer(b"{}", status="503 Service Unavailable", fields="Retry-After: 0\r\n")), ServiceUnavailable),
    ],
    ids=["reset", "closed", "cut short", "unavailable"],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "PUT", "OPTIONS"])
async def test_what_is_no_read_is_sent_once_when_the_connection_to_the_service_is_cut(
    script: Script, kind: type[Exception], method: str
) -> None:
    async with RawServer(script) as server, CredentialsClient(server.url, token=lambda: "token") as client:
        with pytest.raises(kind):
            await client.proxy(uuid4(), method, "v2/orders", user_id="alice", content=b"{}")
        assert len(server.requests) == 1


async def test_an_order_to_a_service_that_says_nothing_was_sent_once() -> None:
    async with RawServer(sends_and_stalls()) as server, CredentialsClient(server.url, token=lambda: "token") as client:
        with pytest.raises(ServiceOutcomeUnknown):
            await client.proxy(uuid4(), "POST", "v2/orders", user_id="alice", json={}, timeout=2.0)
        assert len(server.requests) == 1


async def test_what_may_not_be_called_is_refused_and_not_sent(
    client: CredentialsClient, alpaca: AlpacaStandIn, known: Known
) -> None:
    made, somebody = known
    with pytest.raises(ProxyRefused):
        await client.proxy(made, "POST", "v2/wallets/transfers", user_id=somebody.user_id, json={})
    with pytest.raises(CredentialNotFound):
        await client.proxy(made, "GET", "v2/account", user_id=Somebody().user_id)
    assert alpaca.seen == []


async def test_a_live_account_is_refused_where_paper_is_required(
    client: CredentialsClient, alpaca: AlpacaStandIn
) -> None:
    keys, somebody = pair_of_keys(), Somebody()
    alpaca.open_account(*keys, LIVE_NUMBER)
    made, _ = await stored_by(client, somebody, keys)
    assert (await client.validate(made.id, user_id=somebody.user_id)).account_type == "live"
    alpaca.reset()
    with pytest.raises(AccountTypeRefused):
        await client.proxy(
            made.id, "POST", "v2/orders", user_id=somebody.user_id, json=ORDER, require_account_type="paper"
        )
    with pytest.raises(AccountTypeRefused):
        async with client.credential(made.id, user_id=somebody.user_id, require_account_type="paper"):
            raise AssertionError
    assert alpaca.seen == []


async def test_an_answer_is_read_as_it_comes(client: CredentialsClient, alpaca: AlpacaStandIn, known: Known) -> None:
    made, somebody = known
    streamed = Streamed(headers={"Content-Type": "application/json"})
    alpaca.script(streamed)
    async with client.proxy_stream(made, "GET", "v2/assets", user_id=somebody.user_id) as got:
        assert got.status_code == 200
        for piece in (b"[1,", b"2]"):
            await streamed.send(piece)
            assert await anext(got.parts) == piece
        streamed.end()
        assert [part async for part in got.parts] == []


async def test_a_stream_that_breaks_off_is_an_error(
    client: CredentialsClient, alpaca: AlpacaStandIn, known: Known
) -> None:
    made, somebody = known
    streamed = Streamed()
    alpaca.script(streamed)
    async with client.proxy_stream(made, "GET", "v2/assets", user_id=somebody.user_id) as got:
        await streamed.send(b"[")
        assert await anext(got.parts) == b"["
        streamed.cut()
        with pytest.raises(ServiceUnavailable):
            await anext(got.parts)


async def test_who_leaves_a_stream_hangs_up_on_the_provider(
    client: CredentialsClient, alpaca: AlpacaStandIn, known: Known
) -> None:
    made, somebody = known
    endless = Endless()
    alpaca.script(endless)
    async with client.proxy_stream(made, "GET", "v2/assets", user_id=somebody.user_id) as got:
        await anext(got.parts)
    await endless.gone.wait()


async def test_a_body_goes_piece_by_piece(client: CredentialsClient, alpaca: AlpacaStandIn, known: Known) -> None:
    made, somebody = known

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"symbol": "SPY"', b"}"):
            yield piece

    alpaca.script(json_answer(200, {}))
    headers = {"Content-Type": "application/json"}
    await client.proxy(made, "POST", "v2/orders", user_id=somebody.user_id, content=pieces(), headers=headers)
    assert alpaca.seen[0].body == b'{"symbol": "SPY"}'


async def test_a_suspended_user_is_told_so_by_every_use(
    client: CredentialsClient, service: str, stack: Stack, known: Known, alpaca: AlpacaStandIn
) -> None:
    made, somebody = known
    headers = {"Authorization": f"Bearer {stack.mint('operator', 'olga')}"}
    async with httpx.AsyncClient(base_url=service, headers=headers, timeout=30) as operator:
        answered = await operator.post(f"/v1/users/{somebody.user_id}/suspension")
    assert answered.is_success, answered.text
    with pytest.raises(Suspended):
        await client.proxy(made, "POST", "v2/orders", user_id=somebody.user_id, json=ORDER)
    with pytest.raises(Suspended):
        async with client.credential(made, user_id=somebody.user_id):
            raise AssertionError
    assert alpaca.seen == []
