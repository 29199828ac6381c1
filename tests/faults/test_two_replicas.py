"""Two replicas at once on the same credential, while it is rewrapped: one order of events explains what both say."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.faults.callers import Load
from tests.faults.ledger import Held, keys_of
from tests.faults.phases import Outcome, examine
from tests.rest import PROBLEM

ROUNDS = 4

pytestmark = pytest.mark.timeout(600)
_PROXY = "proxy/v2/stocks/AAPL/quotes/latest"


class Pair:
    """A credential of the prober's, and both replicas to change it at."""

    def __init__(self, load: Load, client: httpx.AsyncClient, held: Held) -> None:
        self.held = held
        self._load = load
        self._client = client
        self._headers = load.headers_of(held.user_id)

    async def _ask(self, replica: int, method: str, path: str = "", **given: Any) -> httpx.Response:
        url = f"{self._load.world.replicas[replica].url}/v1/credentials/{self.held.id}{path}"
        return await self._client.request(method, url, headers=self._headers, **given)

    async def update(self, replica: int, version: int) -> str:
        api_key, secret_key = keys_of(self.held.account_id, version)
        return _told(await self._ask(replica, "PATCH", json={"api_key": api_key, "secret_key": secret_key}))

    async def delete(self, replica: int) -> str:
        return _told(await self._ask(replica, "DELETE"))

    async def opens_as(self, replica: int) -> int | str:
        """The version it opens as there, or what is said instead."""
        answer = await self._ask(replica, "GET", f"/{_PROXY}")
        if not answer.is_success:
            return _told(answer)
        versions = [each for each in range(1, 4) if tuple(answer.json()) == keys_of(self.held.account_id, each)]
        return versions[0] if versions else "WRONG PLAINTEXT"

    async def secret_version(self, replica: int) -> int:
        return int((await self._ask(replica, "GET")).json()["secret_version"])


def _told(answer: httpx.Response) -> str:
    return "done" if answer.is_success else str(answer.json()["type"]).removeprefix(PROBLEM)


async def stored(load: Load, client: httpx.AsyncClient) -> Pair:
    held = await load.store(client, load.world.replicas[0].url, "prober")
    assert held is not None
    return Pair(load, client, held)


async def ends_well(load: Load) -> None:
    outcome = Outcome("two replicas")
    await examine(load, outcome)
    assert not outcome.violations


async def test_of_two_updates_at_once_one_is_last_everywhere(load: Load) -> None:
    async with load.client() as client:
        for number in range(ROUNDS):
            pair = await stored(load, client)
            _, *told = await asyncio.gather(
                load.rotate_and_rewrap(client, load.world.replicas[number % 2].url),
                pair.update(0, 2),
                pair.update(1, 3),
                pair.opens_as(0),
                pair.opens_as(1),
            )
            updates, opens = told[:2], told[2:]
            assert set(updates) <= {"done", "concurrent-update"}
            assert "done" in updates
            assert set(opens) <= {1, 2, 3}
            done = {version for version, each in zip((2, 3), updates, strict=True) if each == "done"}
            last = await pair.opens_as(0)
            assert last in done
            assert await pair.opens_as(1) == last
            assert await pair.secret_version(0) == await pair.secret_version(1) == 1 + len(done)
            pair.held.newest, pair.held.possible = 3, {int(last)}
    await ends_well(load)


async def test_of_an_update_and_a_deletion_at_once_the_deletion_stays(load: Load) -> None:
    async with load.client() as client:
        for number in range(ROUNDS):
            pair = await stored(load, client)
            _, deleted, updated = await asyncio.gather(
                load.rotate_and_rewrap(client, load.world.replicas[number % 2].url),
                pair.delete(number % 2),
                pair.update(1 - number % 2, 2),
            )
            assert deleted in ("done", "concurrent-update")
            assert updated in ("done", "concurrent-update", "credential-not-found")
            assert "done" in (deleted, updated)
            for replica in (0, 1):
                expected = "credential-not-found" if deleted == "done" else 2
                assert await pair.opens_as(replica) == expected
            pair.held.newest, pair.held.possible = 2, {2}
            pair.held.gone = "yes" if deleted == "done" else "no"
    await ends_well(load)


async def test_of_two_deletions_at_once_one_is_done(load: Load) -> None:
    async with load.client() as client:
        for _ in range(ROUNDS):
            pair = await stored(load, client)
            told = await asyncio.gather(pair.delete(0), pair.delete(1))
            assert sorted(told)[-1] == "done"
            assert set(told) <= {"done", "credential-not-found", "concurrent-update"}
            assert [await pair.opens_as(replica) for replica in (0, 1)] == ["credential-not-found"] * 2
            pair.held.gone = "yes"
    await ends_well(load)
