"""Invariant 9, in time: for another user's credential the service does the same work as for one that is not there.

The same statements of Postgres, in the same number, and the same requests to Vault: so there is nothing that could take
another time but what Postgres does within a statement. `make timing` measures that.
"""

import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from tests.doubles.alpaca import AlpacaDouble
from tests.rest import Headers, client_on
from tests.security.test_invariant_9_rest_stranger import BESIDE, OF_ONE, STATES, TRIES
from tests.security.watched_vault import WatchedVault
from tests.stored import some_user
from tests.support import Stack

REPEATS = 3
"""What is done beside the requests, from time to time, is not in all of these."""

Work = Counter[str]


class Watched:
    """A client of the service, and what the service has done since `work` was cleared."""

    def __init__(self, rest: httpx.AsyncClient, work: Work) -> None:
        self.rest = rest
        self._work = work

    async def work_of(self, route: str, credential_id: str, headers: Headers, body: bytes) -> tuple[int, Work]:
        """The answer's status, and what each repetition had done by then."""
        method, template = route.split()
        always: Work | None = None
        for _ in range(REPEATS):
            self._work.clear()
            path = template.format(credential_id=credential_id, **BESIDE)
            answer = await self.rest.request(method, path, content=body, headers=headers)
            always = Counter(self._work) if always is None else always & self._work
        assert always is not None
        return answer.status_code, always


@pytest.fixture(scope="module")
async def watched(stack: Stack) -> AsyncIterator[Watched]:
    work: Work = Counter()

    async def noted(path: str, _batch: str) -> None:
        work[f"Vault: {path}"] += 1

    def logged(query: asyncpg.connection.LoggedQuery) -> None:
        work[" ".join(query.query.split())] += 1

    async def first(connection: Any) -> None:
        connection.add_query_logger(logged)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg, "create_pool", functools.partial(asyncpg.create_pool, init=first))
        async with AlpacaDouble() as alpaca, WatchedVault(stack.vault_addr, noted) as vault:
            settings = stack.settings(
                alpaca_base_url=alpaca.url,
                vault_addr=vault.url,
                oidc_issuer=stack.oidc_issuer,
                rotator_database_url=None,
            )
            async with client_on(settings) as client:
                yield Watched(client, work)


@pytest.mark.parametrize("state", ["active", "disabled", "used", "deleted"])
async def test_anothers_credential_costs_the_same_statements_and_requests_as_none(
    state: str, watched: Watched, bearer: Callable[..., Headers]
) -> None:
    theirs = await STATES[state](watched.rest, bearer("user", some_user("owner")))
    stranger = some_user("stranger")
    robot = {**bearer("orchestrator", "robot"), "X-User-Id": stranger}
    with_statements = 0
    for route in OF_ONE:
        for name in ("nothing", "new keys", "disable"):
            fields, body = TRIES[name]
            others = await watched.work_of(route, theirs, {**robot, **fields}, body)
            absent = await watched.work_of(route, str(uuid4()), {**robot, **fields}, body)
            assert others == absent, (route, name)
            assert not any(each.startswith("Vault: /v1/transit") for each in others[1]), (route, name)
            with_statements += bool(others[1])
    assert with_statements > len(OF_ONE)  # that it is counted at all
