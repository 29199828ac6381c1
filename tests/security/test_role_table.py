"""Who gets what answer on which route: one table, written out, every cell asked of the running application."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.app import create_app
from tests.doubles.alpaca import AlpacaDouble
from tests.doubles.oidc_issuer import OidcIssuer
from tests.doubles.scripted_server import json_answer
from tests.keys import KEY, NO_WORKER, callers
from tests.rest import Headers, client_of, client_on, new_body, problem_of, routes, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection

# Columns: the owner; another user; an orchestrator for the owner, for the other user, for nobody; an operator; an
# auditor; the owner with X-User-Id naming themselves; the other user with X-User-Id naming the owner; no token.
# Cells: the status; where it is a success, also whose the new credential is, or whether the owner's one is in the
# answer (shown) or not (hidden). A 403 that says `hidden` refuses the call, not the caller: Alpaca has no OPTIONS.
TABLE = """
route  path                                     owner      other      for-owner  for-other  for-nobody operator   auditor    owner+header other+header no-token
POST   /v1/credentials                          201:owner  201:other  201:owner  201:other  422        403        403        403          403          401
GET    /v1/credentials                          200:shown  200:hidden 200:shown  200:hidden 422        403        200:shown  403          403          401
GET    /v1/credentials/{credential_id}          200:shown  404        200:shown  404        422        403        200:shown  403          403          401
PATCH  /v1/credentials/{credential_id}          200:shown  404        200:shown  404        422        403        403        403          403          401
DELETE /v1/credentials/{credential_id}          204:hidden 404        204:hidden 404        422        403        403        403          403          401
POST   /v1/credentials/{credential_id}/rollback 200:shown  404        200:shown  404        422        403        403        403          403          401
POST   /v1/credentials/validate                 200:hidden 200:hidden 200:hidden 200:hidden 422        403        403        403          403          401
POST   /v1/credentials/{credential_id}/validate 200:hidden 404        200:hidden 404        422        403        403        403          403          401
GET    /v1/credentials/{credential_id}/proxy/{path} 200:hidden 404        200:hidden 404        422        403        403        403          403          401
HEAD   /v1/credentials/{credential_id}/proxy/{path} 200:hidden 404        200:hidden 404        422        403        403        403          403          401
POST   /v1/credentials/{credential_id}/proxy/{path} 200:hidden 404        200:hidden 404        422        403        403        403          403          401
PUT    /v1/credentials/{credential_id}/proxy/{path} 200:hidden 404        200:hidden 404        422        403        403        403          403          401
PATCH  /v1/credentials/{credential_id}/proxy/{path} 200:hidden 404        200:hidden 404        422        403        403        403          403          401
DELETE /v1/credentials/{credential_id}/proxy/{path} 200:hidden 404        200:hidden 404        422        403        403        403          403          401
OPTIONS /v1/credentials/{credential_id}/proxy/{path} 403:hidden 404        403:hidden 404        422        403        403        403          403          401
POST   /v1/credentials/{credential_id}/handoff  403        403        200:hidden 404        422        403        403        403          403          401
POST   /v1/credentials/{credential_id}/handoff/{handoff_id}/failure 403 403   204:hidden 404        422        403        403        403          403          401
GET    /v1/credentials/{credential_id}/events   200:shown  404        200:shown  404        422        403        200:shown  403          403          401
GET    /v1/events                               200:shown  200:hidden 200:shown  200:hidden 422        403        200:shown  403          403          401
GET    /v1/keys                                 403        403        403        403        403        200:hidden 200:hidden 403          403          401
GET    /v1/keys/{name}                          403        403        403        403        403        200:hidden 200:hidden 403          403          401
GET    /v1/keys/{name}/report                   403        403        403        403        403        200:hidden 200:hidden 403          403          401
POST   /v1/keys/{name}/rotate                   403        403        403        403        403        202:hidden 403        403          403          401
POST   /v1/keys/{name}/rewrap                   403        403        403        403        403        202:hidden 403        403          403          401
POST   /v1/keys/{name}/retire                   403        403        403        403        403        202:hidden 403        403          403          401
GET    /v1/jobs/{job_id}                        403        403        403        403        403        200:hidden 200:hidden 403          403          401
POST   /v1/jobs/{job_id}/stop                   403        403        403        403        403        202:hidden 403        403          403          401
GET    /v1/suspensions                          403        403        403        403        403        200:hidden 200:hidden 403          403          401
GET    /v1/users/{user_id}/suspension           403        403        403        403        403        200:hidden 200:hidden 403          403          401
POST   /v1/users/{user_id}/suspension           403        403        403        403        403        200:hidden 403        403          403          401
DELETE /v1/users/{user_id}/suspension           403        403        403        403        403        204:hidden 403        403          403          401
GET    /v1/accounts/{account_id}/suspension     403        403        403        403        403        200:hidden 200:hidden 403          403          401
POST   /v1/accounts/{account_id}/suspension     403        403        403        403        403        200:hidden 403        403          403          401
DELETE /v1/accounts/{account_id}/suspension     403        403        403        403        403        204:hidden 403        403          403          401
GET    /healthz                                 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden   200:hidden   200:hidden
HEAD   /healthz                                 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden   200:hidden   200:hidden
GET    /readyz                                  200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden   200:hidden   200:hidden
HEAD   /readyz                                  200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden   200:hidden   200:hidden
GET    /metrics                                 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden   200:hidden   200:hidden
HEAD   /metrics                                 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden   200:hidden   200:hidden
GET    /openapi.json                            200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden   200:hidden   200:hidden
HEAD   /openapi.json                            200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden 200:hidden   200:hidden   200:hidden
GET    /v1/credentials/validate                 405        405        405        405        405        405        405        405          405          405
PATCH  /v1/credentials/validate                 405        405        405        405        405        405        405        405          405          405
DELETE /v1/credentials/validate                 405        405        405        405        405        405        405        405          405          405
"""  # noqa: E501 - a table is read by its columns
_, _, *COLUMNS = TABLE.strip().splitlines()[0].split()
ROWS = {f"{method} {path}": cells for method, path, *cells in map(str.split, TABLE.strip().splitlines()[1:])}
CELLS = [(route, column, cell) for route, cells in ROWS.items() for column, cell in zip(COLUMNS, cells, strict=True)]

SUSPENDED = {"user_id": "table-suspended", "account_id": "6f9619ff-8b86-4011-b42d-00c04fc964ff"}
"""Who is suspended when a cell is asked: nobody that another cell is about."""

PROXIED = {
    "POST": "v2/orders",
    "PUT": "v2/watchlists:by_name",
    "PATCH": "v2/account/configurations",
    "DELETE": "v2/orders",
}
"""What is called of Alpaca, where it isn't the account."""

JOB = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
PROBLEMS = {
    401: "authentication-required",
    403: "permission-denied",
    404: "credential-not-found",
    405: "method-not-allowed",
    422: "invalid-input",
}


@pytest.fixture(scope="module")
def stack(keys_stack: Stack) -> Stack:
    return keys_stack


@pytest.fixture(scope="module")
def bearer(stack: Stack) -> Callable[..., Headers]:
    return callers(stack)


@pytest.fixture(scope="module")
async def alpaca() -> AsyncIterator[AlpacaDouble]:
    async with AlpacaDouble() as double:
        yield double


@pytest.fixture(scope="module")
async def rest(stack: Stack, alpaca: AlpacaDouble) -> AsyncIterator[httpx.AsyncClient]:
    settings = {**NO_WORKER, "job_wait_seconds": 0}
    async with client_on(stack.settings(alpaca_base_url=alpaca.url, **settings)) as client:
        yield client


@pytest.fixture
async def job_id(rest: httpx.AsyncClient, bearer: Callable[..., Headers], owner_conn: Connection) -> str:
    """A job that waits, and no other one."""
    await owner_conn.execute("DELETE FROM jobs")
    answer = await rest.post("/v1/keys/credentials-polygon/rewrap", headers=bearer("operator", "olga"))
    return str(answer.json()["id"])


@dataclass(frozen=True)
class Cast:
    """An owner with a credential that has been updated once, and everybody else."""

    owner: str
    other: str
    owners: Headers
    others: Headers
    credential: dict[str, Any]

    def caller(self, column: str, bearer: Callable[..., Headers]) -> Headers:
        """The headers of a column's caller."""
        orchestrator = bearer("orchestrator", "robot")
        return {
            "owner": self.owners,
            "other": self.others,
            "for-owner": {**orchestrator, "X-User-Id": self.owner},
            "for-other": {**orchestrator, "X-User-Id": self.other},
            "for-nobody": orchestrator,
            "operator": bearer("operator", "olga"),
            "auditor": bearer("auditor", "audrey"),
            "owner+header": {**self.owners, "X-User-Id": self.owner},
            "other+header": {**self.others, "X-User-Id": self.owner},
            "no-token": {},
        }[column]


@pytest.fixture
async def cast(rest: httpx.AsyncClient, bearer: Callable[..., Headers]) -> Cast:
    owner, other = "table-owner", "table-other"
    owners, others = bearer("user", owner), bearer("user", other)
    made = await stored(rest, owners)
    keys = {name: new_body()[name] for name in ("api_key", "secret_key")}
    answer = await rest.patch(f"/v1/credentials/{made['id']}", json=keys, headers=owners)
    operators = bearer("operator", "olga")
    for kind in ("users", "accounts"):
        await rest.post(f"/v1/{kind}/{SUSPENDED[f'{kind[:-1]}_id']}/suspension", headers=operators)
    return Cast(owner, other, owners, others, answer.json())


async def ask(
    rest: httpx.AsyncClient,
    route: str,
    headers: Headers,
    credential_id: str,
    job_id: str = JOB,
    handoff_id: str = JOB,
    **named: str,
) -> httpx.Response:
    """A good request for the route; `named`: what else its address names."""
    method, path = route.split()
    keys = {name: new_body()[name] for name in ("api_key", "secret_key")}
    bodies: dict[str, dict[str, Any]] = {
        "POST /v1/credentials": new_body(),
        "PATCH /v1/credentials/{credential_id}": keys,
        "POST /v1/credentials/validate": keys,
        "POST /v1/keys/{name}/retire": {"below_version": 1},
        "POST /v1/credentials/{credential_id}/handoff/{handoff_id}/failure": {"reason": "expired"},
    }
    ids = {"credential_id": credential_id, "name": KEY, "job_id": job_id, "handoff_id": handoff_id, **SUSPENDED}
    address = path.format(**ids | named, path=PROXIED.get(method, "v2/account"))
    return await rest.request(method, address, json=bodies.get(route), headers=headers)


async def row_of(conn: Connection, credential_id: str) -> Any:
    return await conn.fetchrow("SELECT * FROM credentials WHERE id = $1", UUID(credential_id))


def test_every_route_of_the_application_has_a_row() -> None:
    assert routes() == set(ROWS)


@pytest.mark.parametrize(("route", "column", "cell"), CELLS, ids=[f"{r} {c}" for r, c, _ in CELLS])
async def test_each_cell_is_as_written(
    route: str,
    column: str,
    cell: str,
    rest: httpx.AsyncClient,
    alpaca: AlpacaDouble,
    cast: Cast,
    bearer: Callable[..., Headers],
    owner_conn: Connection,
    job_id: str,
) -> None:
    alpaca.reset()
    alpaca.script(*[json_answer(200, {})] * ("/proxy/" in route))
    before = await row_of(owner_conn, cast.credential["id"])
    jobs = await owner_conn.fetch("SELECT * FROM jobs")
    suspensions = await owner_conn.fetch("SELECT * FROM suspensions ORDER BY id")
    credential_id, handoff_id = cast.credential["id"], JOB
    if "{handoff_id}" in route:
        given = await rest.post(f"/v1/credentials/{credential_id}/handoff", headers=cast.caller("for-owner", bearer))
        handoff_id = given.json()["handoff_id"]
    answer = await ask(rest, route, cast.caller(column, bearer), credential_id, job_id, handoff_id)
    status, _, told = cell.partition(":")
    assert answer.status_code == int(status), answer.text
    if told in ("owner", "other"):
        whose = cast.owner if told == "owner" else cast.other
        assert (await row_of(owner_conn, answer.json()["id"]))["user_id"] == whose
    elif told:
        assert (cast.credential["id"] in answer.text) == (told == "shown")
    else:
        assert route.startswith("HEAD") or problem_of(answer)[1] == PROBLEMS[answer.status_code]
        assert not alpaca.seen
        assert await row_of(owner_conn, cast.credential["id"]) == before
        assert await owner_conn.fetch("SELECT * FROM jobs") == jobs
        assert await owner_conn.fetch("SELECT * FROM suspensions ORDER BY id") == suspensions


async def test_a_user_who_audits_acts_as_the_user_where_a_user_may(stack: Stack) -> None:
    """Several roles: Vault's tokens have one each, so these are a foreign issuer's."""
    owner, reader = some_user("owner"), some_user("both")
    async with OidcIssuer() as issuer:
        issuer.add_key("k1")
        settings = stack.settings(oidc_issuer=issuer.url, oidc_user_claim="sub")
        async with client_on(settings) as rest:
            owners = {"Authorization": f"Bearer {issuer.token('k1', sub=owner)}"}
            both = {"Authorization": f"Bearer {issuer.token('k1', sub=reader, roles=['auditor', 'user'])}"}
            audits = {"Authorization": f"Bearer {issuer.token('k1', sub=reader, roles=['auditor', 'operator'])}"}
            nobody = {"Authorization": f"Bearer {issuer.token('k1', sub=reader, roles=['admin', 'root'])}"}
            path = f"/v1/credentials/{(await stored(rest, owners))['id']}"
            assert (await rest.get(path, headers=both)).status_code == 404
            assert (await rest.get(path, headers=audits)).status_code == 200
            assert (await rest.delete(path, headers=audits)).status_code == 403
            for route in (route for route in ROWS if "/v1/" in route and ROWS[route][0] != "405"):
                assert (await ask(rest, route, nobody, path.rpartition("/")[2])).status_code == 403


# What an orchestrator's token may be limited to, and what is then answered to: read, update, store; for the user in
# the claim, and for another.
LIMITS = [
    ({}, (200, 200, 201), (200, 200, 201)),
    ({"users": ["USER"]}, (200, 200, 201), (403, 403, 403)),
    ({"actions": ["credentials:read"]}, (200, 403, 403), (200, 403, 403)),
    ({"users": ["USER"], "actions": ["credentials:read", "credentials:store"]}, (200, 403, 201), (403, 403, 403)),
    ({"users": []}, (403, 403, 403), (403, 403, 403)),
    ({"users": "USER"}, (403, 403, 403), (403, 403, 403)),
    (None, (403, 403, 403), (403, 403, 403)),
    ({"users": ["USER"], "accounts": []}, (403, 403, 403), (403, 403, 403)),
]


@pytest.mark.parametrize(("limits", "for_one", "for_another"), LIMITS, ids=[str(claim) for claim, _, _ in LIMITS])
async def test_an_orchestrators_limits_hold_over_rest(
    limits: Any, for_one: tuple[int, ...], for_another: tuple[int, ...], stack: Stack
) -> None:
    one, another = some_user("one"), some_user("another")
    claim = {**limits, "users": [one]} if limits and limits.get("users") == ["USER"] else limits
    async with OidcIssuer() as issuer:
        issuer.add_key("k1")
        app = create_app(stack.settings(oidc_issuer=issuer.url, oidc_user_claim="sub"))
        async with app.router.lifespan_context(app), client_of(app) as rest:
            payload = issuer.claims(sub="robot", roles=["orchestrator"])
            # By hand: `token` leaves out a claim of None, and a claim of null is one of the cases.
            token = _signed(issuer, payload | {"credentials_limits": claim})
            for user, expected in ((one, for_one), (another, for_another)):
                owners = {"Authorization": f"Bearer {issuer.token('k1', sub=user)}"}
                path = f"/v1/credentials/{(await stored(rest, owners))['id']}"
                robot = {"Authorization": f"Bearer {token}", "X-User-Id": user}
                got = (
                    (await rest.get(path, headers=robot)).status_code,
                    (await rest.patch(path, json={"is_active": False}, headers=robot)).status_code,
                    (await rest.post("/v1/credentials", json=new_body(), headers=robot)).status_code,
                )
                assert got == expected


async def test_limits_hold_for_a_user_and_an_auditor_too(stack: Stack) -> None:
    async with OidcIssuer() as issuer:
        issuer.add_key("k1")
        async with client_on(stack.settings(oidc_issuer=issuer.url, oidc_user_claim="sub")) as rest:

            async def statuses(role: str, limits: Any) -> tuple[int, int]:
                token = issuer.token("k1", sub=some_user(), roles=[role], credentials_limits=limits)
                headers = {"Authorization": f"Bearer {token}"}
                found = await rest.get("/v1/credentials", headers=headers)
                return found.status_code, (await rest.get("/v1/events", headers=headers)).status_code

            for role in ("user", "auditor"):
                assert await statuses(role, {}) == (200, 200)
                assert await statuses(role, {"actions": ["credentials:read"]}) == (200, 403)
                assert await statuses(role, {"users": ["somebody"]}) == (403, 403)


def _signed(issuer: OidcIssuer, claims: dict[str, Any]) -> str:
    _key, algorithm = issuer.private["k1"]
    return issuer.signed("k1", {"typ": "JWT", "alg": algorithm, "kid": "k1"}, json.dumps(claims).encode())
