"""An issuer whose clock differs: within the leeway nobody notices; beyond it 401, until the clocks agree again."""

import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.doubles.oidc_issuer import OidcIssuer
from tests.faults.callers import Load
from tests.faults.replica import Replica
from tests.rest import new_body, problem_of

pytestmark = pytest.mark.timeout(600)

LEEWAY = 120.0
"""Wide, so that a machine that stands still between a token's making and its check decides nothing."""


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[OidcIssuer]:
    async with OidcIssuer() as made:
        made.add_key("k")
        yield made


@pytest.fixture(scope="module")
async def client(load: Load, issuer: OidcIssuer) -> AsyncIterator[httpx.AsyncClient]:
    """A process of the service that trusts that issuer."""
    environment = {
        **load.world.environment,
        "CREDENTIALS_OIDC_ISSUER": issuer.url,
        "CREDENTIALS_OIDC_USER_CLAIM": "sub",
        "CREDENTIALS_OIDC_LEEWAY": str(LEEWAY),
    }
    replica = Replica("skewed", environment, load.world.folder)
    try:
        await replica.start()
        async with httpx.AsyncClient(base_url=replica.url, timeout=60, trust_env=False) as made:
            yield made
    finally:
        await replica.kill()


def headers_at(issuer: OidcIssuer, skew: float) -> dict[str, str]:
    """Those of a token for five minutes, made now by a clock that is `skew` seconds fast."""
    now = int(time.time() + skew)
    return {"Authorization": f"Bearer {issuer.token('k', iat=now, nbf=now, exp=now + 300)}"}


@pytest.mark.parametrize("skew", [LEEWAY / 2, -300 - LEEWAY / 2])
async def test_within_the_leeway_a_skewed_clock_is_not_noticed(
    client: httpx.AsyncClient, issuer: OidcIssuer, skew: float
) -> None:
    answer = await client.post("/v1/credentials", json=new_body(), headers=headers_at(issuer, skew))
    assert answer.status_code == 201
    assert (await client.delete(answer.headers["location"], headers=headers_at(issuer, skew))).status_code == 204


@pytest.mark.parametrize("skew", [5 * LEEWAY, 86_400.0, -300 - 5 * LEEWAY, -86_400.0])
async def test_beyond_it_is_401_and_all_is_well_as_soon_as_the_clocks_agree(
    client: httpx.AsyncClient, issuer: OidcIssuer, skew: float
) -> None:
    for method, path in (("GET", "/v1/credentials"), ("POST", "/v1/credentials")):
        body = new_body() if method == "POST" else None
        answer = await client.request(method, path, json=body, headers=headers_at(issuer, skew))
        assert problem_of(answer) == (401, "authentication-failed", None)
    assert (await client.get("/v1/credentials", headers=headers_at(issuer, 0))).status_code == 200


async def test_a_token_that_was_good_ends_when_it_expires_by_our_clock(
    client: httpx.AsyncClient, issuer: OidcIssuer
) -> None:
    now = int(time.time())
    token = issuer.token("k", iat=now - 3600, nbf=now - 3600, exp=int(now - LEEWAY + 8))
    headers = {"Authorization": f"Bearer {token}"}
    until = time.monotonic() + 60
    statuses: list[int] = []
    while time.monotonic() < until and (not statuses or statuses[-1] != 401):
        statuses.append((await client.get("/v1/credentials", headers=headers)).status_code)
    assert set(statuses) <= {200, 401}
    assert statuses[-1] == 401, "an expired token goes on"
