"""Stopped or failing at any step, a request shows no secret: in no frame's locals, whoever prints them, and however.

For every way in, over REST and by the library, and every call that it makes to Vault and Postgres.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from service.app import create_app
from service.composition import Runtime, close_process_runtime, configure
from service.errors import InvalidInput
from service.memory.revealed import RevealedSecret
from service.modules.credential_service import (
    get_decrypted_alpaca_credential,
    store_credential,
    validate_alpaca_credentials,
)
from tests.doubles.alpaca import AlpacaDouble
from tests.evidence import found
from tests.port_hooks import Gate, Hook, hooked_ports, hooked_runtime
from tests.rest import Headers, client_of, new_body, stored
from tests.shown import shown, shown_by_reporters, shown_of_stopped_frames, stopped_frames
from tests.stored import some_user
from tests.support import Stack, canary
from tests.written import Connection


@dataclass
class Ways:
    """What the ways in need; `hook` is what every port call of theirs is shown to."""

    rest: httpx.AsyncClient
    conn: Connection
    alpaca: AlpacaDouble
    headers: Headers
    user: str
    hook: Hook | None = None
    secrets: list[str] = field(default_factory=list)

    async def __call__(self, when: str, step: str) -> None:
        if self.hook is not None:
            await self.hook(when, step)

    def keys(self) -> dict[str, str]:
        body = {"api_key": canary("AK"), "secret_key": canary("SK")}
        self.secrets += body.values()
        return body

    async def prepared(self, way: "Way") -> "Doing":
        """Ready to be done, with secrets that nothing before it had."""
        self.secrets.clear()
        return await way(self)

    async def made(self, credential_type: str = "alpaca") -> str:
        """A stored credential's address."""
        answer = await stored(self.rest, self.headers, credential_type=credential_type, **self.keys())
        return f"/v1/credentials/{answer['id']}"


Doing = Callable[[], Awaitable[Any]]
Way = Callable[[Ways], Awaitable[Doing]]
"""Prepares what it needs, and returns the doing of it."""


async def rest_store(ways: Ways) -> Doing:
    body, headers = new_body(**ways.keys()), ways.headers | {"Idempotency-Key": str(uuid4())}
    return lambda: ways.rest.post("/v1/credentials", json=body, headers=headers)


async def rest_update(ways: Ways) -> Doing:
    path, keys = await ways.made(), ways.keys()
    return lambda: ways.rest.patch(path, json=keys, headers=ways.headers)


async def rest_update_of_one_key(ways: Ways) -> Doing:
    path, keys = await ways.made(), ways.keys()
    return lambda: ways.rest.patch(path, json={"secret_key": keys["secret_key"]}, headers=ways.headers)


async def rest_rollback(ways: Ways) -> Doing:
    path, keys = await ways.made(), ways.keys()
    await ways.rest.patch(path, json=keys, headers=ways.headers)
    return lambda: ways.rest.post(f"{path}/rollback", headers=ways.headers)


async def rest_validate(ways: Ways) -> Doing:
    path = await ways.made()
    return lambda: ways.rest.post(f"{path}/validate", headers=ways.headers)


async def rest_validate_given(ways: Ways) -> Doing:
    keys = ways.keys()
    return lambda: ways.rest.post("/v1/credentials/validate", json=keys, headers=ways.headers)


async def library_store(ways: Ways) -> Doing:
    keys = ways.keys()
    return lambda: store_credential(ways.conn, uuid4(), ways.user, "alpaca", **keys)


async def library_open(ways: Ways) -> Doing:
    keys = ways.keys()
    made = await store_credential(ways.conn, uuid4(), ways.user, "alpaca", **keys)

    async def opening() -> None:
        async with get_decrypted_alpaca_credential(ways.conn, made, ways.user) as pair:
            assert pair == tuple(keys.values())
            await ways("within", "the block")

    return opening


async def library_validate(ways: Ways) -> Doing:
    keys = ways.keys()
    return lambda: validate_alpaca_credentials(**keys)


# Each way, and how many port calls it makes at least; the steps are those that a first run of it comes by.
WAYS: dict[Way, int] = {
    rest_store: 5,
    rest_update: 4,
    rest_update_of_one_key: 6,
    rest_rollback: 6,
    rest_validate: 4,
    library_store: 4,
    library_open: 2,
}
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@pytest.fixture(scope="module")
async def ways(stack: Stack, bearer: Callable[..., Headers]) -> AsyncIterator[Ways]:
    async with contextlib.AsyncExitStack() as opened:
        alpaca = await opened.enter_async_context(AlpacaDouble())
        settings = stack.settings(alpaca_base_url=alpaca.url, provider_timeout=20)
        conn = await asyncpg.connect(stack.runtime_url)
        opened.push_async_callback(conn.close)
        user = some_user("masked")

        async def hook(when: str, step: str) -> None:
            await made(when, step)

        runtime: Runtime = await opened.enter_async_context(hooked_runtime(settings, hook))
        app = create_app(runtime=runtime)
        await opened.enter_async_context(app.router.lifespan_context(app))
        rest = await opened.enter_async_context(client_of(app))
        made = Ways(rest, conn, alpaca, bearer("user", user), user)
        await close_process_runtime()  # another test's would be used, without the hook
        configure(settings)
        opened.callback(configure, None)
        opened.push_async_callback(close_process_runtime)
        with hooked_ports(hook):
            await (await library_store(made))()
        yield made


async def steps_of(ways: Ways, way: Way) -> list[tuple[str, str]]:
    """Every point of a port call that the way comes by, once each."""
    steps: dict[tuple[str, str], None] = {}

    async def note(when: str, step: str) -> None:
        if step != "store.touch_used":  # in the background, now and then, for whatever was opened before
            steps[when, step] = None

    doing = await ways.prepared(way)
    ways.hook = note
    await doing()
    ways.hook = None
    return list(steps)


@every_way
async def test_stopped_at_any_step_no_frame_of_the_service_shows_a_secret(ways: Ways, way: Way) -> None:
    steps = await steps_of(ways, way)
    assert len(steps) >= 2 * WAYS[way]
    for when, step in steps:
        doing = await ways.prepared(way)
        ways.hook = gate = Gate(when, step)
        task = asyncio.ensure_future(doing())
        await gate.wait_for(task)
        evidence = shown_of_stopped_frames()
        leaking = found(ways.secrets, evidence)
        gate.opened.set()
        await task
        ways.hook = None
        assert (when, step, leaking) == (when, step, [])
        assert any("credential_" in place for place in evidence)


@every_way
async def test_an_unexpected_error_at_any_step_shows_no_secret_in_any_frames_locals(ways: Ways, way: Way) -> None:
    for when, step in await steps_of(ways, way):
        doing = await ways.prepared(way)
        error = _Unexpected()
        ways.hook = _raising(error, when, step)
        outcome: object = None
        try:
            outcome = await doing()
        except Exception as raised:  # noqa: BLE001 - the library's caller gets whatever it is
            outcome = raised
        ways.hook = None
        errors = [error] if not isinstance(outcome, Exception) else [error, outcome]
        for each in errors:
            assert (when, step, found(ways.secrets, shown_by_reporters(each))) == (when, step, [])
        if isinstance(outcome, httpx.Response):
            assert found(ways.secrets, {"answer": outcome.text + str(outcome.headers)}) == []


class _Unexpected(Exception):
    """No error of ours, so nobody knows what it holds."""


def _raising(error: Exception, when: str, step: str) -> Hook:
    async def hook(is_when: str, is_step: str) -> None:
        if (is_when, is_step) == (when, step):
            raise error

    return hook


@pytest.mark.parametrize("way", [rest_validate, rest_validate_given, library_validate], ids=lambda way: way.__name__)
@pytest.mark.parametrize("answer", ["silent", "trickle"])
async def test_waiting_for_the_provider_no_frame_of_the_service_shows_a_secret(
    ways: Ways, way: Way, answer: str
) -> None:
    doing = await ways.prepared(way)
    ways.alpaca.reset()
    ways.alpaca.script(getattr(ways.alpaca, answer))
    task = asyncio.ensure_future(doing())
    async with asyncio.timeout(20):
        while not ways.alpaca.seen:  # noqa: ASYNC110 - the double has no event for it
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # the head of the answer, where one comes
    evidence = shown_of_stopped_frames()
    leaking = found(ways.secrets, evidence)
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    assert isinstance(outcome, asyncio.CancelledError)
    assert leaking == []
    assert any("exchange.py" in place for place in evidence)
    assert found(ways.secrets, shown_by_reporters(outcome)) == []


async def test_a_client_that_goes_away_in_the_middle_of_its_body_leaves_none_in_any_frame(ways: Ways) -> None:
    keys = ways.keys()
    reading, gone = asyncio.Event(), asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b'{"api_key": "' + keys["api_key"].encode()
        yield b'", "secret_key": "' + keys["secret_key"].encode()
        reading.set()
        await gone.wait()

    task = asyncio.ensure_future(
        ways.rest.post(
            "/v1/credentials/validate",
            content=half(),
            headers=ways.headers | {"Content-Type": "application/json"},
        )
    )
    await asyncio.wait_for(reading.wait(), 20)
    evidence = shown_of_stopped_frames()
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    assert found(ways.secrets, evidence) == []
    assert any("json_body.py" in place for place in evidence)
    assert isinstance(outcome, asyncio.CancelledError)
    assert found(ways.secrets, shown_by_reporters(outcome)) == []


async def test_the_search_finds_what_a_frame_of_the_service_would_show() -> None:
    """A search that finds nothing ever would make all of the above green."""
    secret = canary()
    for value in ({"k": [secret]}, secret.encode(), InvalidInput("field", secret)):
        assert found([secret], {"shown": "\n".join(shown(value))}) == ["shown"]
    assert found([secret], {"shown": "\n".join(shown(RevealedSecret(secret)))}) == []

    async def stopped() -> None:
        mine = secret
        await asyncio.sleep(60)
        del mine

    task = asyncio.ensure_future(stopped())
    await asyncio.sleep(0)
    here = [frame for frame in stopped_frames(__file__) if frame.f_code.co_name == "stopped"]
    assert found([secret], {"frame": repr(here[0].f_locals)}) == ["frame"]
    task.cancel()
    assert await asyncio.gather(task, return_exceptions=True)


def test_the_reporters_show_what_a_frame_holds_and_stars_for_a_long_revealed_secret() -> None:
    secret = canary()
    namespace: dict[str, Any] = {"secret": secret, "long": RevealedSecret(secret * 5)}
    code = compile("def fail(plain, masked):\n    raise RuntimeError\n", "/somewhere/else.py", "exec")
    exec(code, namespace)  # noqa: S102 - frames of code that is not a test's
    with pytest.raises(RuntimeError) as plain:
        namespace["fail"](secret, "")
    assert found([secret], shown_by_reporters(plain.value)) == ["rich", "rich as it comes", "traceback"]
    with pytest.raises(RuntimeError) as masked:
        namespace["fail"]("", namespace["long"])
    shown_ones = shown_by_reporters(masked.value)
    assert found([secret], shown_ones) == []
    assert all("masked" in shown_ones[name] for name in ("rich", "rich as it comes", "traceback"))
