"""A proxied call has lost the keys when the provider has them: while it waits for the answer, and after it."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from service.composition import Runtime
from tests.doubles.scripted_server import Answer, html_answer, reset_answer
from tests.zeroing.conftest import Ledger, Way
from tests.zeroing.processes import environment_without, scan, service
from tests.zeroing.rest import PROXIED, Bearer, proxied_read

TRIES = 5
"""Fresh processes, at most: what lies in dead memory is overwritten now and then."""


@pytest.mark.parametrize("name", PROXIED)
async def test_nothing_is_left_while_the_provider_holds_its_answer_back_and_after_it(
    way: Way, name: str, ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    number = list(PROXIED).index(name) * 2 + (way.name == "TLS")
    what = f"{name} over {way.name}"
    # The first call makes the connection, the second one uses it.
    first, second = [await PROXIED[name](way, runtime, bearer, each) for each in (number, number + 9)]
    keys = (*first.keys, *second.keys)
    async with service(way.environment) as served, served.client({}) as client:
        assert (await client.get("/v1/credentials", headers=first.headers)).is_success
        client.headers.update(first.headers)
        assert (await first.send(client)).status_code == first.answers
        client.headers.update(second.headers)
        async with second.held():
            answering = asyncio.ensure_future(second.send(client))
            await second.arrived()
            await ledger.gone("sent, not answered yet", what, served.pid, keys)
        answer = await answering
        assert answer.status_code == second.answers, answer.text
        await ledger.gone("after the answer", what, served.pid, keys)


async def test_before_there_is_a_connection_the_scanner_sees_them_and_after_its_failure_nothing_is_left(
    ways: dict[str, Way], ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    """The pair is decrypted by then, and the head not written: TLS's handshake never ends."""
    way, connected = ways["TLS"], asyncio.Event()
    request = await proxied_read(way, runtime, bearer, 5)
    writers: list[asyncio.StreamWriter] = []

    def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        connected.set()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    environment = {**way.environment, "ALPACA_BASE_URL": address, "CREDENTIALS_PROXY_CONNECT_SECONDS": "6"}
    async with listening, service(environment) as served, served.client(request.headers) as client:
        assert (await client.get("/v1/credentials")).is_success
        answering = asyncio.ensure_future(request.send(client))
        await connected.wait()
        inside = await scan(served.pid, request.keys)
        ledger.note("during the request", "proxied, not connected", served.pid, request.keys, inside)
        assert inside.windows > 0, "the scanner does not see what is there"
        assert (await answering).status_code == httpx.codes.SERVICE_UNAVAILABLE
        await ledger.gone("after a connection that failed", "proxied", served.pid, request.keys)
        for writer in writers:
            writer.close()


@pytest.mark.parametrize(
    ("trouble", "status"),
    [(lambda: html_answer(401), 401), (lambda: html_answer(302), 503), (lambda: reset_answer, 503)],
    ids=["keys refused", "a redirect", "a reset"],
)
async def test_a_call_that_fails_leaves_nothing(
    trouble: Callable[[], Answer],
    status: int,
    ways: dict[str, Way],
    ledger: Ledger,
    runtime: Runtime,
    bearer: Bearer,
) -> None:
    way = ways["http"]
    request = await proxied_read(way, runtime, bearer, 6)
    async with service(way.environment) as served, served.client(request.headers) as client:
        assert (await client.get("/v1/credentials")).is_success
        way.alpaca.script(trouble())
        assert (await request.send(client)).status_code == status
        await ledger.gone("after a call that failed", f"proxied, {status}", served.pid, request.keys)


async def test_without_forgetting_them_they_are_there_while_the_answer_is_waited_for(
    ways: dict[str, Way], ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    way, without = ways["http"], "forgetting injected headers"
    for number in range(TRIES):
        request = await proxied_read(way, runtime, bearer, number)
        environment = environment_without(way.environment)
        async with (
            service(environment, module="tests.zeroing.served", without=[without]) as served,
            served.client(request.headers) as client,
        ):
            assert (await client.get("/v1/credentials")).is_success
            async with request.held():
                answering = asyncio.ensure_future(request.send(client))
                await request.arrived()
                found = await scan(served.pid, request.keys)
                ledger.note("without", f"{without}: proxied, not answered yet", served.pid, request.keys, found)
            assert (await answering).status_code == request.answers
            if found.windows:
                return
    pytest.fail("nothing was found: does it still protect anything?")
