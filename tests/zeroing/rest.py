"""The ways by which a secret gets into the service over REST, each with what it needs."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from uuid import UUID, uuid4

import httpx

from service.composition import Runtime
from tests.written import Somebody
from tests.zeroing.conftest import Way
from tests.zeroing.processes import Keys, pair

Bearer = Callable[..., dict[str, str]]


@dataclass(frozen=True)
class Request:
    """One request that carries a secret, or has one opened."""

    keys: Keys
    headers: Mapping[str, str]
    send: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
    answers: int
    """The status that is expected."""
    held: Callable[[], AbstractAsyncContextManager[None]]
    """While its block runs, the answer that the service waits for in the middle of the request is held."""
    arrived: Callable[[], Awaitable[None]]
    """Returns when it is being held; for `refused`, never."""


async def store(way: Way, _runtime: Runtime, bearer: Bearer, number: int) -> Request:
    """POST /v1/credentials."""
    keys = pair(number)
    body = {"account_id": str(uuid4()), "credential_type": "alpaca", "api_key": keys[0], "secret_key": keys[1]}
    return Request(
        keys,
        bearer("user", Somebody().user_id),
        lambda client: client.post("/v1/credentials", json=body),
        201,
        lambda: way.vault.holding("/transit/encrypt/"),
        way.vault.held,
    )


async def update(way: Way, runtime: Runtime, bearer: Bearer, number: int) -> Request:
    """PATCH of both keys."""
    keys, somebody, credential_id = await _stored(runtime, number, pair(number + 1))
    body = {"api_key": keys[0], "secret_key": keys[1]}
    return Request(
        keys,
        bearer("user", somebody.user_id),
        lambda client: client.patch(f"/v1/credentials/{credential_id}", json=body),
        200,
        lambda: way.vault.holding("/transit/encrypt/"),
        way.vault.held,
    )


async def update_one(way: Way, runtime: Runtime, bearer: Bearer, number: int) -> Request:
    """PATCH of one key: the other one is opened and sealed again."""
    given, before = pair(number), pair(number + 1)
    _, somebody, credential_id = await _stored(runtime, number, before)
    return Request(
        (given[0], before[1]),
        bearer("user", somebody.user_id),
        lambda client: client.patch(f"/v1/credentials/{credential_id}", json={"api_key": given[0]}),
        200,
        lambda: way.vault.holding("/transit/encrypt/"),
        way.vault.held,
    )


async def validate_given(way: Way, _runtime: Runtime, bearer: Bearer, number: int) -> Request:
    """POST /v1/credentials/validate."""
    keys = pair(number)
    way.alpaca.open_account(*keys)
    body = {"api_key": keys[0], "secret_key": keys[1]}
    return Request(
        keys,
        bearer("user", Somebody().user_id),
        lambda client: client.post("/v1/credentials/validate", json=body),
        200,
        lambda: way.provider.holding("/v2/account"),
        way.provider.held,
    )


async def validate_stored(way: Way, runtime: Runtime, bearer: Bearer, number: int) -> Request:
    """POST /v1/credentials/{id}/validate."""
    keys = pair(number)
    _, somebody, credential_id = await _stored(runtime, number, keys)
    way.alpaca.open_account(*keys)
    return Request(
        keys,
        bearer("user", somebody.user_id),
        lambda client: client.post(f"/v1/credentials/{credential_id}/validate"),
        200,
        lambda: way.provider.holding("/v2/account"),
        way.provider.held,
    )


async def proxied_read(way: Way, runtime: Runtime, bearer: Bearer, number: int) -> Request:
    """GET through the proxy, which puts the keys into the request's head."""
    keys = pair(number)
    _, somebody, credential_id = await _stored(runtime, number, keys)
    way.alpaca.open_account(*keys)
    return Request(
        keys,
        bearer("user", somebody.user_id),
        lambda client: client.get(f"/v1/credentials/{credential_id}/proxy/v2/account"),
        200,
        lambda: way.provider.holding("/v2/account"),
        way.provider.held,
    )


async def proxied_write(way: Way, runtime: Runtime, bearer: Bearer, number: int) -> Request:
    """POST through the proxy: the head goes before the body."""
    keys = pair(number)
    _, somebody, credential_id = await _stored(runtime, number, keys)
    way.alpaca.open_account(*keys)
    order = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    return Request(
        keys,
        bearer("user", somebody.user_id),
        lambda client: client.post(f"/v1/credentials/{credential_id}/proxy/v2/orders", json=order),
        200,
        lambda: way.provider.holding("/v2/orders"),
        way.provider.held,
    )


async def refused(way: Way, _runtime: Runtime, bearer: Bearer, number: int) -> Request:
    """POST of a body with a field that there isn't: nothing else is asked, so nothing else is in the way."""
    keys = pair(number)
    body = {"api_key": keys[0], "secret_key": keys[1], "account": str(uuid4())}
    return Request(
        keys,
        bearer("user", Somebody().user_id),
        lambda client: client.post("/v1/credentials", json=body),
        422,
        nullcontext,
        way.vault.held,
    )


async def _stored(runtime: Runtime, number: int, keys: Keys) -> tuple[Keys, Somebody, UUID]:
    somebody = Somebody()
    return pair(number), somebody, (await somebody.store(runtime, keys)).id


REQUESTS = {each.__name__: each for each in (store, update, update_one, validate_given, validate_stored)}
"""Those that do what they are for, and hold the secret until they are answered."""

PROXIED = {each.__name__: each for each in (proxied_read, proxied_write)}
"""Those that have lost it when the provider has got it."""
