"""A secret that comes over REST, or is opened for a request, is gone from the service's memory after the answer."""

import asyncio

import httpx
import pytest

from service.composition import Runtime
from tests.support import Stack
from tests.zeroing.conftest import Ledger, Way
from tests.zeroing.processes import pair, scan, service
from tests.zeroing.rest import REQUESTS, Bearer


@pytest.mark.parametrize("name", REQUESTS)
async def test_after_the_answer_nothing_is_left_in_a_fresh_service(
    way: Way, name: str, ledger: Ledger, runtime: Runtime, bearer: Bearer
) -> None:
    number = list(REQUESTS).index(name) * 2 + (way.name == "TLS")
    request = await REQUESTS[name](way, runtime, bearer, number)
    what = f"{name} over {way.name}"
    async with service(way.environment) as served, served.client(request.headers) as client:
        # Else the issuer's keys would be fetched for this request, over whatever it left.
        assert (await client.get("/v1/credentials")).is_success
        async with request.held():
            answering = asyncio.ensure_future(request.send(client))
            await request.arrived()
            inside = await scan(served.pid, request.keys)
            ledger.note("during the request", what, served.pid, request.keys, inside)
            assert inside.windows > 0, "the scanner does not see what is there"
        assert (await answering).status_code == request.answers
        await ledger.gone("after the answer", what, served.pid, request.keys)


@pytest.mark.parametrize("path", ["/store", "/validate"])
async def test_the_control_that_is_written_as_usual_leaves_it(
    way: Way, path: str, ledger: Ledger, stack: Stack
) -> None:
    keys = pair(3)
    environment = {**way.environment, "VAULT_TOKEN": stack.runtime_token()}
    async with service(environment, module="tests.zeroing.control", without=["serve"]) as served:
        async with served.client({}) as client:
            answer = await client.post(path, json={"api_key": keys[0], "secret_key": keys[1]})
            assert answer.status_code == httpx.codes.OK
        found = await scan(served.pid, keys)
    ledger.note("control", f"{path[1:]} over {way.name}", served.pid, keys, found)
    assert found.windows > 0
