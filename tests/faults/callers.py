"""The load: callers that store, open, hand off, update and delete over REST, and a program that embeds the library.

Each caller is a user with credentials of its own, and does one thing after the other, so it knows what has to be true.
What is not as it has to be is noted in `Ledger.violations`: a wrong secret, an answer that a fault does not excuse.
"""

import asyncio
import base64
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import httpx

from service.composition import Runtime
from service.errors import CredentialsError, TemporarilyUnavailable, VaultDenied
from service.modules.records import OwnerAccess
from tests.faults.ledger import Held, Ledger, keys_of
from tests.faults.world import World
from tests.rest import PROBLEM

BOUND = 60.0
"""Seconds after which a call counts as hanging. (The service's own time-outs, with its retries, come to a quarter.)"""

_CALLERS = 8
_EACH = 5
_THINKS = 0.02
_OPEN_PATH = "proxy/v2/stocks/AAPL/quotes/latest"

Outcome = Literal["ok", "refused", "broken", "wrong"]


@dataclass(frozen=True)
class Permits:
    """What calls may meet at the moment, beside success and 503 (a problem document with Retry-After), which is right
    whenever something is not to be had in time."""

    broken: bool = False
    """Connections to the replica that is the fault's victim may break, and be refused."""
    problems: frozenset[tuple[int, str]] = frozenset()
    """Further problems: status and name."""


@dataclass(frozen=True)
class Call:
    """One call that has ended."""

    kind: str
    where: str
    began: float
    ended: float
    outcome: Outcome
    told: str = ""


@dataclass
class Load:
    """All callers."""

    world: World
    runtime: Runtime
    ledger: Ledger = field(default_factory=Ledger)
    permits: Permits = field(default_factory=Permits)
    calls: list[Call] = field(default_factory=list)
    _tokens: dict[str, dict[str, str]] = field(default_factory=dict)
    _going: asyncio.Event = field(default_factory=asyncio.Event)
    _under_way: int = 0

    async def prepare(self) -> None:
        """Mints everybody's tokens, and stores what the library opens."""
        users = [*(f"user-{number}" for number in range(_CALLERS)), "library", "prober"]
        for user in users:
            self._tokens[user] = {"Authorization": f"Bearer {self.world.stack.mint('user', user)}"}
        self._tokens["robot"] = {"Authorization": f"Bearer {self.world.stack.mint('orchestrator', 'robot')}"}
        self._tokens["operator"] = {"Authorization": f"Bearer {self.world.stack.mint('operator', 'olga')}"}
        async with self.client() as client:
            for _ in range(_EACH):
                assert await self.store(client, self.world.replicas[0].url, "library") is not None

    def headers_of(self, user: str) -> dict[str, str]:
        """By which this caller is known."""
        return dict(self._tokens[user])

    def client(self) -> httpx.AsyncClient:
        """A client for one caller."""
        return httpx.AsyncClient(timeout=BOUND, trust_env=False)

    async def run(self) -> None:
        """Goes on until it is cancelled; `resume` lets it begin."""
        async with asyncio.TaskGroup() as group:
            for number in range(_CALLERS):
                group.create_task(self._calling(f"user-{number}", number))
            group.create_task(self._embedding())

    def resume(self) -> None:
        self._going.set()

    async def pause(self) -> None:
        """Returns when nothing is under way."""
        self._going.clear()
        async with asyncio.timeout(2 * BOUND):
            while self._under_way:  # noqa: ASYNC110 - a number that every caller changes
                await asyncio.sleep(0.01)

    def since(self, moment: float) -> list[Call]:
        """The calls that began after that."""
        return [call for call in self.calls if call.began >= moment]

    async def _each(self, work: Callable[[], Awaitable[object]]) -> None:
        await self._going.wait()
        self._under_way += 1
        try:
            await work()
        finally:
            self._under_way -= 1
        await asyncio.sleep(random.uniform(0, 2 * _THINKS))  # noqa: S311 - a test's pause

    async def _calling(self, user: str, number: int) -> None:
        turn = number
        async with self.client() as client:
            while True:
                turn += 1
                replica = self.world.replicas[turn % 2]
                await self._each(lambda: self._one(client, replica.url, user))  # noqa: B023 - awaited in this turn

    async def _one(self, client: httpx.AsyncClient, url: str, user: str) -> None:
        held = self.ledger.some(user)
        in_doubt = [each for each in self.ledger.held if each.user_id == user and each.gone == "maybe"]
        unsure = [each for each in self.ledger.held if each.user_id == user and not each.id]
        if in_doubt:
            await self.delete(client, url, in_doubt[0])
        elif held is None or unsure or self.ledger.owned(user) < _EACH:
            await self.store(client, url, user)
        else:
            kinds = [self.open, self.open, self.open, self.hand_off, self.update, self.update, self.delete]
            await random.choice(kinds)(client, url, held)  # noqa: S311 - a test's choice

    # --- what a caller does -------------------------------------------------------------------------------------------

    async def store(self, client: httpx.AsyncClient, url: str, user: str) -> Held | None:
        """Stores a credential, or sends again what was not acknowledged."""
        unsure = [each for each in self.ledger.held if each.user_id == user and not each.id]
        held = unsure[0] if unsure else Held(user)
        if not unsure:
            self.ledger.held.append(held)
        api_key, secret_key = keys_of(held.account_id, 1)
        body = {
            "account_id": str(held.account_id),
            "credential_type": "alpaca",
            "api_key": api_key,
            "secret_key": secret_key,
        }
        headers = {**self._tokens[user], "Idempotency-Key": held.idempotency_key}
        answer = await self.ask("store", client, "POST", f"{url}/v1/credentials", headers, json=body, expect=201)
        if answer is None:
            return None
        held.id = answer.json()["id"]
        # An answer that is given again is of a request before, whose event has that one's id.
        if not unsure:
            self._acknowledge(answer, "store")
        return held

    async def open(self, client: httpx.AsyncClient, url: str, held: Held) -> bool:
        """Opens it by a proxied call; the stand-in says with which keys."""
        where = f"{url}/v1/credentials/{held.id}/{_OPEN_PATH}"
        answer = await self.ask("open", client, "GET", where, self._tokens[held.user_id], held=held)
        if answer is None:
            return False
        self._acknowledge(answer, "proxy")
        self._check(held, answer.json(), "a proxied call")
        return True

    async def hand_off(self, client: httpx.AsyncClient, url: str, held: Held) -> bool:
        """Has it handed off, and unwraps it at Vault itself."""
        headers = {**self._tokens["robot"], "X-User-Id": held.user_id}
        where = f"{url}/v1/credentials/{held.id}/handoff"
        answer = await self.ask("handoff", client, "POST", where, headers, held=held)
        if answer is None:
            return False
        self._acknowledge(answer, "handoff")
        token = {"X-Vault-Token": answer.json()["wrapping_token"]}
        with suppress(httpx.TransportError):  # Vault's own trouble, and the client's
            unwrapped = await client.post(f"{self.world.stack.vault_addr}/v1/sys/wrapping/unwrap", headers=token)
            if unwrapped.is_success:
                plaintext = base64.b64decode(_plaintext_of(unwrapped.json())).decode()
                self._check(held, plaintext.split("\n"), "a hand-off")
        return True

    async def update(self, client: httpx.AsyncClient, url: str, held: Held) -> bool:
        """Gives it the next version's keys."""
        held.newest += 1
        version = held.newest
        held.possible.add(version)
        api_key, secret_key = keys_of(held.account_id, version)
        where, body = f"{url}/v1/credentials/{held.id}", {"api_key": api_key, "secret_key": secret_key}
        answer = await self.ask("update", client, "PATCH", where, self._tokens[held.user_id], json=body, held=held)
        if answer is None:
            return False
        held.possible = {version}
        self._acknowledge(answer, "update")
        return True

    async def delete(self, client: httpx.AsyncClient, url: str, held: Held) -> bool:
        """Deletes it."""
        was_in_doubt = held.gone == "maybe"
        held.gone = "maybe"
        where = f"{url}/v1/credentials/{held.id}"
        answer = await self.ask("delete", client, "DELETE", where, self._tokens[held.user_id], expect=204, held=held)
        if answer is None:
            return was_in_doubt and not self.ledger.is_there(held)
        held.gone = "yes"
        self._acknowledge(answer, "delete")
        return True

    async def open_embedded(self, held: Held) -> bool:
        """Opens it by the library, in this process."""
        request_id = secrets.token_hex(16)
        access = OwnerAccess(user_id=held.user_id, actor="library", request_id=request_id)
        began = time.monotonic()
        try:
            async with asyncio.timeout(BOUND):
                async with self.runtime.opener.reveal(access, UUID(held.id)) as (api_key, secret_key):
                    keys = str(api_key), str(secret_key)
        except TemporarilyUnavailable as error:
            self._note("library", "library", began, "refused", type(error).__name__)
            return False
        except (CredentialsError, TimeoutError) as error:
            excused = isinstance(error, VaultDenied) and (502, "vault-denied") in self.permits.problems
            self._note("library", "library", began, "refused" if excused else "wrong", type(error).__name__)
            return False
        self.ledger.acknowledged[request_id] = "open"
        self._check(held, keys, "the library")
        self._note("library", "library", began, "ok")
        return True

    async def _embedding(self) -> None:
        while True:
            held = self.ledger.some("library")
            assert held is not None
            await self._each(lambda: self.open_embedded(held))  # noqa: B023 - awaited in this turn

    # --- answers ------------------------------------------------------------------------------------------------------

    async def ask(
        self,
        kind: str,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        headers: dict[str, str],
        *,
        json: Any = None,
        expect: int = 200,
        held: Held | None = None,
    ) -> httpx.Response | None:
        """One request. Its answer where that is as expected; else None, and it is noted whether that is excused."""
        where = next((each.name for each in self.world.replicas if url.startswith(each.url)), "")
        before, began = self.permits, time.monotonic()
        try:
            answer = await client.request(method, url, headers=headers, json=json)
        except httpx.TimeoutException:
            self._note(kind, where, began, "wrong", f"no answer within {BOUND:.0f} s")
            return None
        except httpx.TransportError as error:
            excused = where == self.world.victim and (before.broken or self.permits.broken)
            self._note(kind, where, began, "broken" if excused else "wrong", type(error).__name__)
            return None
        if answer.status_code == expect:
            self._note(kind, where, began, "ok")
            return answer
        told = self._told(answer)
        if told == (404, "credential-not-found") and held is not None and held.gone != "no":
            held.gone = "yes"
            self._note(kind, where, began, "ok")
            return None
        self._note(kind, where, began, "refused" if self._excused(before, answer, told, held) else "wrong", f"{told}")
        return None

    @staticmethod
    def _told(answer: httpx.Response) -> tuple[int, str]:
        if answer.headers.get("content-type") != "application/problem+json":
            return answer.status_code, "no problem document"
        return answer.status_code, str(answer.json().get("type", "")).removeprefix(PROBLEM)

    def _excused(self, before: Permits, answer: httpx.Response, told: tuple[int, str], held: Held | None) -> bool:
        permits = (before, self.permits)
        if answer.status_code == 503 and told[1] != "no problem document":
            return bool(answer.headers.get("retry-after", "").isdigit())
        if told == (409, "concurrent-update"):
            return held is not None and len(held.possible) > 2  # one of before may have come first after all
        return any(told in each.problems for each in permits)

    def _note(self, kind: str, where: str, began: float, outcome: Outcome, told: str = "") -> None:
        self.calls.append(Call(kind, where, began, time.monotonic(), outcome, told))
        if outcome == "wrong":
            self.ledger.violations.append(f"{kind} at {where}: {told}")

    def _acknowledge(self, answer: httpx.Response, action: str) -> None:
        self.ledger.acknowledged[answer.headers["x-request-id"]] = action

    def _check(self, held: Held, keys: Any, how: str) -> None:
        wrongness = held.wrongness((keys[0], keys[1]))
        if wrongness is not None:
            self.ledger.violations.append(f"WRONG PLAINTEXT by {how}: {wrongness}")

    # --- is it well again? --------------------------------------------------------------------------------------------

    async def works(self, client: httpx.AsyncClient, url: str) -> bool:
        """Whether all that callers do works at this replica, with a credential of its own."""
        for left in [each for each in self.ledger.held if each.user_id == "prober" and each.gone != "yes"]:
            if left.id and not await self.delete(client, url, left) and left.gone != "yes":
                return False
        held = await self.store(client, url, "prober")
        if held is None:
            return False
        for step in (self.open, self.update, self.open, self.hand_off, self.delete):
            if not await step(client, url, held):
                return False
        return True

    async def rotate_and_rewrap(self, client: httpx.AsyncClient, url: str) -> None:
        """An operator asks for both. What comes of it is looked at later."""
        for what in ("rotate", "rewrap"):
            with suppress(httpx.TransportError):
                await client.post(f"{url}/v1/keys/credentials-alpaca/{what}", headers=self._tokens["operator"])

    def counts(self, since: float) -> Counter[str]:
        """How many calls ended how."""
        return Counter(call.outcome for call in self.since(since))


def _plaintext_of(told: dict[str, Any]) -> str:
    """What was wrapped is transit's whole answer."""
    data = told["data"]
    if "plaintext" in data:
        return str(data["plaintext"])
    return str(data["batch_results"][0]["plaintext"])
