"""The service leaves in order: what is under way ends, nothing secret stays, its Vault token is revoked.

And a rolling restart of two replicas under load, behind a balancer that knows no more than /readyz, fails nobody.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.doubles.scripted_server import ScriptedServer
from tests.doubles.streams import Streamed
from tests.faults.replica import Replica
from tests.faults.world import Echo
from tests.proxying import ORDER, events
from tests.rest import Headers, new_body, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection
from tests.zeroing.processes import scan

pytestmark = pytest.mark.timeout(600)

_ROLE = "leaving"
QUOTES = "proxy/v2/stocks/AAPL/quotes/latest"
Bearer = Callable[..., Headers]


@pytest.fixture(scope="module")
def own_login(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An AppRole role of this module's own, by which its tokens are told from others'."""
    path = f"auth/{stack.local.names.approle}/role/{_ROLE}"
    body = {"token_policies": [stack.local.names.role], "token_no_default_policy": True}
    assert stack.vault("POST", path, body).is_success
    secret_id = tmp_path_factory.mktemp("leaving") / "secret-id"
    secret_id.write_text(stack.vault("POST", f"{path}/secret-id", {}).json()["data"]["secret_id"])
    return {
        "CREDENTIALS_VAULT_ROLE_ID": stack.vault("GET", f"{path}/role-id").json()["data"]["role_id"],
        "CREDENTIALS_VAULT_SECRET_ID_FILE": str(secret_id),
    }


def tokens(stack: Stack) -> int:
    """How many Vault tokens of that role there are."""
    found = 0
    for accessor in stack.vault("LIST", "auth/token/accessors").json()["data"]["keys"]:
        looked_up = stack.vault("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        if looked_up.is_success:
            found += (looked_up.json()["data"].get("meta") or {}).get("role_name") == _ROLE
    return found


@asynccontextmanager
async def replica(
    stack: Stack, provider: ScriptedServer, login: dict[str, str], folder: Path, **settings: str
) -> AsyncIterator[Replica]:
    """One process of the service, without the worker's logins."""
    environment = {name: text for name, text in stack.local.environment().items() if "ROTATOR" not in name}
    made = Replica(
        f"replica-{uuid4().hex[:6]}",
        {
            **environment,
            **login,
            "ALPACA_BASE_URL": provider.url,
            "CREDENTIALS_RECONCILE_INTERVAL": "86400",
            "CREDENTIALS_DUMPABLE": "true",
            **settings,
        },
        folder,
    )
    try:
        await made.start()
        yield made
    finally:
        await made.kill()


def client_of(made: Replica, headers: Headers) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=made.url, headers=headers, timeout=60, trust_env=False)


async def is_closed(made: Replica) -> None:
    """Waits until it takes no connections any more."""
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", made.port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.05)


async def test_what_is_under_way_ends_and_then_the_vault_token_is_revoked(
    stack: Stack, bearer: Bearer, own_login: dict[str, str], tmp_path: Path
) -> None:
    headers, body, streamed = bearer("user", some_user()), new_body(), Streamed()
    async with (
        Echo() as provider,
        replica(
            stack, provider, own_login, tmp_path, CREDENTIALS_DRAIN_SECONDS="0", CREDENTIALS_GRACE_SECONDS="60"
        ) as it,
        client_of(it, headers) as client,
    ):
        made = (await client.post("/v1/credentials", json=body)).json()
        provider.script(streamed)
        assert tokens(stack) == 1
        async with client.stream("GET", f"/v1/credentials/{made['id']}/{QUOTES}") as answer:
            pieces = answer.aiter_raw()
            await streamed.send(b"one")
            assert await anext(pieces) == b"one"
            it.signal(signal.SIGTERM)
            it.signal(signal.SIGTERM)  # whoever asks twice disturbs nothing
            await is_closed(it)
            # The process lives, with the call under way; the keys it was made with are gone from it.
            found = await scan(it.process.pid, [body["api_key"], body["secret_key"]])
            assert found.windows == 0, found.where
            await streamed.send(b"two")
            streamed.end()
            assert [piece async for piece in pieces] == [b"two"]
        assert await it.ended() == -signal.SIGTERM
    assert tokens(stack) == 0


async def test_a_call_that_goes_on_beyond_the_grace_is_cut_and_the_rest_is_done_in_order(
    stack: Stack, bearer: Bearer, own_login: dict[str, str], tmp_path: Path, owner_conn: Connection
) -> None:
    headers, streamed = bearer("user", some_user()), Streamed()
    async with (
        Echo() as provider,
        replica(
            stack, provider, own_login, tmp_path, CREDENTIALS_DRAIN_SECONDS="0", CREDENTIALS_GRACE_SECONDS="1"
        ) as it,
        client_of(it, headers) as client,
    ):
        made = await stored(client, headers)
        provider.script(streamed)
        async with client.stream("POST", f"/v1/credentials/{made['id']}/proxy/v2/orders", json=ORDER) as answer:
            it.signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):  # never as if it were whole
                await answer.aread()
        assert await it.ended() == -signal.SIGTERM
    assert tokens(stack) == 0
    # What was cut had the time to say so before Postgres was closed.
    assert await events(owner_conn, made["id"]) == [("trade", "granted", None), ("trade", "failed", "outcome_unknown")]


async def test_sigint_after_sigterm_waits_for_what_is_under_way_and_revokes_the_token(
    stack: Stack, bearer: Bearer, own_login: dict[str, str], tmp_path: Path
) -> None:
    headers, streamed = bearer("user", some_user()), Streamed()
    async with (
        Echo() as provider,
        replica(
            stack, provider, own_login, tmp_path, CREDENTIALS_DRAIN_SECONDS="300", CREDENTIALS_GRACE_SECONDS="60"
        ) as it,
        client_of(it, headers) as client,
    ):
        made = await stored(client, headers)
        provider.script(streamed)
        async with client.stream("GET", f"/v1/credentials/{made['id']}/{QUOTES}") as answer:
            pieces = answer.aiter_raw()
            await streamed.send(b"one")
            assert await anext(pieces) == b"one"
            it.signal(signal.SIGTERM)
            it.signal(signal.SIGINT)  # ends the draining
            await is_closed(it)
            await streamed.send(b"two")
            streamed.end()
            assert [piece async for piece in pieces] == [b"two"]
        await it.ended()
    assert tokens(stack) == 0


async def test_ctrl_c_twice_revokes_the_token_too(
    stack: Stack, bearer: Bearer, own_login: dict[str, str], tmp_path: Path
) -> None:
    headers, streamed = bearer("user", some_user()), Streamed()
    async with (
        Echo() as provider,
        replica(stack, provider, own_login, tmp_path) as it,
        client_of(it, headers) as client,
    ):
        made = await stored(client, headers)
        provider.script(streamed)
        async with client.stream("GET", f"/v1/credentials/{made['id']}/{QUOTES}"):
            it.signal(signal.SIGINT)
            await is_closed(it)
            it.signal(signal.SIGINT)  # does not wait for the call
            await it.ended()
    assert tokens(stack) == 0


async def test_while_it_leaves_it_says_so_and_goes_on_answering(
    stack: Stack, bearer: Bearer, own_login: dict[str, str], tmp_path: Path
) -> None:
    headers = bearer("user", some_user())
    async with (
        Echo() as provider,
        replica(stack, provider, own_login, tmp_path, CREDENTIALS_DRAIN_SECONDS="300") as it,
        client_of(it, headers) as client,
    ):
        answer = await client.get("/v1/credentials")
        assert (answer.status_code, answer.headers.get("connection")) == (200, None)
        it.signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            while (ready := await client.get("/readyz")).status_code == 200:  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.01)
        assert ready.status_code == 503
        assert ready.json()["checks"] == [{"name": "process", "ok": False, "detail": "This process is about to stop."}]
        for _ in range(3):
            made = await client.post("/v1/credentials", json=new_body())
            assert (made.status_code, made.headers["connection"]) == (201, "close")
        assert (await client.get("/healthz")).status_code == 200
        it.signal(signal.SIGTERM)  # again: enough of that
        assert await it.ended() == -signal.SIGTERM


async def test_a_request_whose_head_has_come_in_part_is_answered(
    stack: Stack, own_login: dict[str, str], tmp_path: Path
) -> None:
    async with Echo() as provider, replica(stack, provider, own_login, tmp_path, CREDENTIALS_DRAIN_SECONDS="0") as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        await writer.drain()
        async with httpx.AsyncClient(trust_env=False) as other:  # by its answer, those bytes have been read
            await other.get(f"{it.url}/healthz")
        it.signal(signal.SIGTERM)
        await is_closed(it)
        writer.write(b"\r\n")
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in answer
        assert await it.ended() == -signal.SIGTERM


# --- a rolling restart ------------------------------------------------------------------------------------------------


class Balancer:
    """Sends each request to a replica whose /readyz said 200 when it was last asked. It sends nothing twice, but for
    what was never sent: where no connection could be had."""

    def __init__(self, replicas: list[Replica]) -> None:
        self._replicas = replicas
        self._ready = {each.url: True for each in replicas}
        self._turn = 0

    async def watch(self) -> None:
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            while True:
                for each in self._replicas:
                    try:
                        self._ready[each.url] = (await client.get(f"{each.url}/readyz")).status_code == 200
                    except httpx.TransportError:
                        self._ready[each.url] = False
                await asyncio.sleep(0.05)

    def is_ready(self, each: Replica) -> bool:
        return self._ready[each.url]

    async def send(
        self, client: httpx.AsyncClient, method: str, path: str, headers: Headers, **body: object
    ) -> httpx.Response:
        for _ in range(10):
            ready = [url for url, is_ready in self._ready.items() if is_ready] or list(self._ready)
            self._turn += 1
            url = ready[self._turn % len(ready)]
            with suppress(httpx.ConnectError):
                return await client.request(method, url + path, headers=headers, **body)  # type: ignore[arg-type]
            self._ready[url] = False
        raise AssertionError("no replica takes connections")


async def test_a_rolling_restart_of_two_replicas_under_load_fails_no_request(
    stack: Stack, bearer: Bearer, own_login: dict[str, str], tmp_path: Path
) -> None:
    answers: list[int] = []
    over = asyncio.Event()
    users = [bearer("user", some_user()) for _ in range(4)]

    async def calling(headers: Headers) -> None:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            while not over.is_set():
                made = await balancer.send(client, "POST", "/v1/credentials", headers, json=new_body())
                answers.append(made.status_code)
                path = f"/v1/credentials/{made.json()['id']}"
                for method, address, body in (
                    ("GET", f"{path}/{QUOTES}", None),
                    ("PATCH", path, {"api_key": "AK", "secret_key": "SK"}),
                    ("GET", path, None),
                    ("DELETE", path, None),
                ):
                    given = {} if body is None else {"json": body}
                    answers.append((await balancer.send(client, method, address, headers, **given)).status_code)

    async with (
        Echo() as provider,
        replica(stack, provider, own_login, tmp_path, CREDENTIALS_DRAIN_SECONDS="3") as first,
        replica(stack, provider, own_login, tmp_path, CREDENTIALS_DRAIN_SECONDS="3") as second,
    ):
        balancer = Balancer([first, second])
        watching = asyncio.create_task(balancer.watch())
        callers = [asyncio.create_task(calling(headers)) for headers in users]
        for each in (first, second):
            before = len(answers)
            each.signal(signal.SIGTERM)
            assert await each.ended() == -signal.SIGTERM
            await each.start()
            await each.ready()
            began = time.monotonic()
            while not balancer.is_ready(each):
                assert time.monotonic() - began < 60
                await asyncio.sleep(0.05)
            assert len(answers) > before, "there was no load"
        over.set()
        await asyncio.gather(*callers)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    assert set(answers) == {200, 201, 204}, sorted(set(answers))
