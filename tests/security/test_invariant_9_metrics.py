"""Invariant 9, in the metrics, which need no token: there another user's credential counts as one that is not there.

Whoever asks for an id may read `/metrics` before and after. Compared is all that it counts; not durations' sums and
buckets, which tell what they tell of any answer's time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import httpx
import pytest

from service.errors import CredentialNotFound
from tests.exported import Exported, Series, scraped
from tests.rest import Headers, client_on
from tests.security.test_invariant_9_rest_stranger import BESIDE, OF_ONE, STATES
from tests.stored import owner, some_user
from tests.support import Stack

REPEATS = 3
"""What is counted beside the requests, from time to time, is not in all of these."""

Counts = dict[Series, float]


@pytest.fixture(scope="module")
async def rest(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    quiet = {"reconcile_interval": 86_400, "metrics_seconds": 0, "rotator_database_url": None}
    async with client_on(stack.settings(**quiet)) as client:
        # It reconciles once, at once, and what others have left takes requests to Vault.
        for _ in range(1200):
            told = await scraped(client)
            if any(told.value("credentials_reconciliations_total", outcome=each) for each in ("done", "failed")):
                break
            await asyncio.sleep(0.1)
        yield client


def counts(told: Exported) -> Counts:
    """Each counter, each histogram's count, and the gauges of what is held; of this application and not the process."""
    beside = ("credentials_garbage_", "credentials_vault_token_", "credentials_secret_memory_")
    return {
        (name, labels): told.value(name, **dict(labels))
        for name, labels in told.series
        if not name.startswith(beside) and not name.endswith(("_sum", "_bucket", "_created"))
    }


async def counted(rest: httpx.AsyncClient, route: str, credential_id: Callable[[], str], headers: Headers) -> Counts:
    """What one request of this route adds to the metrics, at least."""
    method, template = route.split()
    always: Counts | None = None
    for _ in range(REPEATS):
        before = counts(await scraped(rest))
        await rest.request(method, template.format(credential_id=credential_id(), **BESIDE), headers=headers)
        after = counts(await scraped(rest))
        grown = {each: value - before.get(each, 0) for each, value in after.items() if value != before.get(each, 0)}
        always = (
            grown if always is None else {each: min(grown[each], always[each]) for each in grown.keys() & always.keys()}
        )
    assert always is not None
    return always


@pytest.mark.parametrize("state", ["active", "disabled"])
async def test_anothers_credential_adds_to_the_metrics_what_an_absent_one_adds(
    state: str, rest: httpx.AsyncClient, bearer: Callable[..., Headers]
) -> None:
    theirs = await STATES[state](rest, bearer("user", some_user("owner")))
    robot = {**bearer("orchestrator", "robot"), "X-User-Id": some_user("stranger")}
    denied = set()
    for route in OF_ONE:
        others = await counted(rest, route, lambda: theirs, robot)
        absent = await counted(rest, route, lambda: str(uuid4()), robot)
        assert others == absent, route
        denied |= {dict(labels)["action"] for (name, labels) in others if name == "credentials_uses_total"}
    assert {"validate", "handoff", "proxy"} <= denied  # that these are counted at all


async def test_so_does_what_a_program_opens(rest: httpx.AsyncClient, bearer: Callable[..., Headers]) -> None:
    theirs = await STATES["active"](rest, bearer("user", some_user("owner")))
    # The library's way, within the same application.
    opener = rest._transport.app.state.runtime.opener  # type: ignore[attr-defined]
    added = []
    for asked in (UUID(theirs), uuid4()):
        before = counts(await scraped(rest))
        with pytest.raises(CredentialNotFound):
            async with opener.reveal(owner(some_user("stranger")), asked):
                pass
        after = counts(await scraped(rest))
        uses = {each for each, value in after.items() if value != before.get(each, 0) and "uses_total" in each[0]}
        added.append(uses)
    labels = frozenset({("action", "open"), ("outcome", "denied"), ("reason", "not_found")})
    assert added == [{("credentials_uses_total", labels)}] * 2
