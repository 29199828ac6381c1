"""Who gets what answer with a token of several roles, of none, or with limits; and where what is asked for is absent.

Beside `test_role_table.py`: the same routes, further callers. `pytest -s` prints what each cell was answered.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from service.authz.policy import Permission
from tests.doubles.alpaca import AlpacaDouble
from tests.doubles.oidc_issuer import OidcIssuer
from tests.doubles.scripted_server import json_answer
from tests.keys import NO_WORKER
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.security.test_role_table import PROBLEMS, ROWS, SUSPENDED, ask, row_of
from tests.support import Stack
from tests.written import Connection

# `right`: what a limits claim calls it. Columns: a token without a role; with roles that there are not; another user
# who is an auditor too; the owner, an operator too; the owner, an orchestrator too, naming nobody; an auditor who is an
# operator too; an orchestrator for the owner, limited to the owner, to another user, to this right, to all others; the
# owner, limited to all other rights; an auditor likewise; an operator limited to some users, to this right, to all
# others. Cells as in the other table.
TABLE = """
route   path                                                         right                      no-role unknown user+auditor user+operator user+orch  auditor+operator for-listed for-unlisted this-action other-actions user-other auditor-other operator-users operator-this operator-other
POST    /v1/credentials                                              credentials:store          403     403     201:other    201:owner     201:owner  403              201:owner  403          201:owner   403           403        403           403            403           403
GET     /v1/credentials                                              credentials:read           403     403     200:hidden   200:shown     200:shown  200:shown        200:shown  403          200:shown   403           403        403           403            403           403
GET     /v1/credentials/{credential_id}                              credentials:read           403     403     404          200:shown     200:shown  200:shown        200:shown  403          200:shown   403           403        403           403            403           403
PATCH   /v1/credentials/{credential_id}                              credentials:update         403     403     404          200:shown     200:shown  403              200:shown  403          200:shown   403           403        403           403            403           403
DELETE  /v1/credentials/{credential_id}                              credentials:delete         403     403     404          204:hidden    204:hidden 403              204:hidden 403          204:hidden  403           403        403           403            403           403
POST    /v1/credentials/{credential_id}/rollback                     credentials:rollback       403     403     404          200:shown     200:shown  403              200:shown  403          200:shown   403           403        403           403            403           403
POST    /v1/credentials/validate                                     credentials:validate-given 403     403     200:hidden   200:hidden    200:hidden 403              200:hidden 403          200:hidden  403           403        403           403            403           403
POST    /v1/credentials/{credential_id}/validate                     credentials:validate       403     403     404          200:hidden    200:hidden 403              200:hidden 403          200:hidden  403           403        403           403            403           403
GET     /v1/credentials/{credential_id}/proxy/{path}                 credentials:proxy          403     403     404          200:hidden    200:hidden 403              200:hidden 403          200:hidden  403           403        403           403            403           403
HEAD    /v1/credentials/{credential_id}/proxy/{path}                 credentials:proxy          403     403     404          200:hidden    200:hidden 403              200:hidden 403          200:hidden  403           403        403           403            403           403
POST    /v1/credentials/{credential_id}/proxy/{path}                 credentials:trade          403     403     404          200:hidden    200:hidden 403              200:hidden 403          200:hidden  403           403        403           403            403           403
PUT     /v1/credentials/{credential_id}/proxy/{path}                 credentials:trade          403     403     404          200:hidden    200:hidden 403              200:hidden 403          200:hidden  403           403        403           403            403           403
PATCH   /v1/credentials/{credential_id}/proxy/{path}                 credentials:trade          403     403     404          200:hidden    200:hidden 403              200:hidden 403          200:hidden  403           403        403           403            403           403
DELETE  /v1/credentials/{credential_id}/proxy/{path}                 credentials:trade          403     403     404          200:hidden    200:hidden 403              200:hidden 403          200:hidden  403           403        403           403            403           403
OPTIONS /v1/credentials/{credential_id}/proxy/{path}                 credentials:trade          403     403     404          403:hidden    403:hidden 403              403:hidden 403          403:hidden  403           403        403           403            403           403
POST    /v1/credentials/{credential_id}/handoff                      credentials:handoff        403     403     403          403           422        403              200:hidden 403          200:hidden  403           403        403           403            403           403
POST    /v1/credentials/{credential_id}/handoff/{handoff_id}/failure credentials:handoff        403     403     403          403           422        403              204:hidden 403          204:hidden  403           403        403           403            403           403
GET     /v1/credentials/{credential_id}/events                       credentials:events         403     403     404          200:shown     200:shown  200:shown        200:shown  403          200:shown   403           403        403           403            403           403
GET     /v1/events                                                   credentials:events         403     403     200:hidden   200:shown     200:shown  200:shown        200:shown  403          200:shown   403           403        403           403            403           403
GET     /v1/keys                                                     keys:read                  403     403     200:hidden   200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
GET     /v1/keys/{name}                                              keys:read                  403     403     200:hidden   200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
GET     /v1/keys/{name}/report                                       keys:read                  403     403     200:hidden   200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
POST    /v1/keys/{name}/rotate                                       keys:administer            403     403     403          202:hidden    403        202:hidden       403        403          403         403           403        403           403            202:hidden    403
POST    /v1/keys/{name}/rewrap                                       keys:administer            403     403     403          202:hidden    403        202:hidden       403        403          403         403           403        403           403            202:hidden    403
POST    /v1/keys/{name}/retire                                       keys:administer            403     403     403          202:hidden    403        202:hidden       403        403          403         403           403        403           403            202:hidden    403
GET     /v1/jobs/{job_id}                                            keys:read                  403     403     200:hidden   200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
POST    /v1/jobs/{job_id}/stop                                       keys:administer            403     403     403          202:hidden    403        202:hidden       403        403          403         403           403        403           403            202:hidden    403
GET     /v1/suspensions                                              suspensions:read           403     403     200:hidden   200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
GET     /v1/users/{user_id}/suspension                               suspensions:read           403     403     200:hidden   200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
POST    /v1/users/{user_id}/suspension                               suspensions:administer     403     403     403          200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
DELETE  /v1/users/{user_id}/suspension                               suspensions:administer     403     403     403          204:hidden    403        204:hidden       403        403          403         403           403        403           403            204:hidden    403
GET     /v1/accounts/{account_id}/suspension                         suspensions:read           403     403     200:hidden   200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
POST    /v1/accounts/{account_id}/suspension                         suspensions:administer     403     403     403          200:hidden    403        200:hidden       403        403          403         403           403        403           403            200:hidden    403
DELETE  /v1/accounts/{account_id}/suspension                         suspensions:administer     403     403     403          204:hidden    403        204:hidden       403        403          403         403           403        403           403            204:hidden    403
"""  # noqa: E501 - a table is read by its columns
_, _, _, *COLUMNS = TABLE.strip().splitlines()[0].split()
_LINES = [line.split() for line in TABLE.strip().splitlines()[1:]]
RIGHTS = {f"{method} {path}": right for method, path, right, *_ in _LINES}
CELLS = {f"{method} {path}": dict(zip(COLUMNS, cells, strict=True)) for method, path, _, *cells in _LINES}

# What there is not: a credential, key, job, suspension. To suspend needs nobody who is there.
ABSENT = """
route   path                                                         user for-user for-nobody operator auditor no-token
GET     /v1/credentials/{credential_id}                              404  404      422        403      404     401
PATCH   /v1/credentials/{credential_id}                              404  404      422        403      403     401
DELETE  /v1/credentials/{credential_id}                              404  404      422        403      403     401
POST    /v1/credentials/{credential_id}/rollback                     404  404      422        403      403     401
POST    /v1/credentials/{credential_id}/validate                     404  404      422        403      403     401
GET     /v1/credentials/{credential_id}/proxy/{path}                 404  404      422        403      403     401
HEAD    /v1/credentials/{credential_id}/proxy/{path}                 404  404      422        403      403     401
POST    /v1/credentials/{credential_id}/proxy/{path}                 404  404      422        403      403     401
PUT     /v1/credentials/{credential_id}/proxy/{path}                 404  404      422        403      403     401
PATCH   /v1/credentials/{credential_id}/proxy/{path}                 404  404      422        403      403     401
DELETE  /v1/credentials/{credential_id}/proxy/{path}                 404  404      422        403      403     401
OPTIONS /v1/credentials/{credential_id}/proxy/{path}                 404  404      422        403      403     401
POST    /v1/credentials/{credential_id}/handoff                      403  404      422        403      403     401
POST    /v1/credentials/{credential_id}/handoff/{handoff_id}/failure 403  404      422        403      403     401
GET     /v1/credentials/{credential_id}/events                       404  404      422        403      404     401
GET     /v1/keys/{name}                                              403  403      403        404      404     401
GET     /v1/keys/{name}/report                                       403  403      403        404      404     401
POST    /v1/keys/{name}/rotate                                       403  403      403        404      403     401
POST    /v1/keys/{name}/rewrap                                       403  403      403        404      403     401
POST    /v1/keys/{name}/retire                                       403  403      403        404      403     401
GET     /v1/jobs/{job_id}                                            403  403      403        404      404     401
POST    /v1/jobs/{job_id}/stop                                       403  403      403        404      403     401
GET     /v1/users/{user_id}/suspension                               403  403      403        404      404     401
POST    /v1/users/{user_id}/suspension                               403  403      403        200      403     401
DELETE  /v1/users/{user_id}/suspension                               403  403      403        404      403     401
GET     /v1/accounts/{account_id}/suspension                         403  403      403        404      404     401
POST    /v1/accounts/{account_id}/suspension                         403  403      403        200      403     401
DELETE  /v1/accounts/{account_id}/suspension                         403  403      403        404      403     401
"""
ABSENT_COLUMNS = ABSENT.strip().splitlines()[0].split()[2:]
ABSENT_CELLS = {
    f"{method} {path}": dict(zip(ABSENT_COLUMNS, cells, strict=True))
    for method, path, *cells in map(str.split, ABSENT.strip().splitlines()[1:])
}
NOT_FOUND = {
    "credentials": "credential-not-found",
    "keys": "key-not-found",
    "jobs": "job-not-found",
    "users": "not-suspended",
    "accounts": "not-suspended",
}
OWNER, OTHER = "limits-owner", "limits-other"
USES_NOTHING_UP = ("/proxy/{path}", "/validate", "/v1/credentials")
"""How routes end that can be called again with what there is."""


@pytest.fixture(scope="module")
def stack(keys_stack: Stack) -> Stack:
    return keys_stack


@pytest.fixture(scope="module")
async def alpaca() -> AsyncIterator[AlpacaDouble]:
    async with AlpacaDouble() as double:
        yield double


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[OidcIssuer]:
    async with OidcIssuer() as server:
        server.add_key("k1")
        yield server


@pytest.fixture(scope="module")
async def rest(stack: Stack, alpaca: AlpacaDouble, issuer: OidcIssuer) -> AsyncIterator[httpx.AsyncClient]:
    claims = {"oidc_issuer": issuer.url, "oidc_user_claim": "sub"}
    patient = {"vault_timeout": 60, "database_timeout": 60, "proxy_connect_seconds": 60}  # the machine may stall
    settings = stack.settings(alpaca_base_url=alpaca.url, **claims, **patient, **NO_WORKER | {"job_wait_seconds": 0})
    async with client_on(settings) as client:
        yield client


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, list[str]]]:
    """What was answered, by route; printed at the end."""
    seen: dict[str, list[str]] = {}
    yield seen
    print("\n" + "\n".join(f"{route:76}{' '.join(cells)}" for route, cells in seen.items()))  # noqa: T201


def caller(issuer: OidcIssuer, route: str, column: str) -> Headers:
    """The headers of a column's caller."""
    this = RIGHTS[route]
    others = [each.value for each in Permission if each.value != this]

    def token(subject: str, roles: list[str], on_behalf_of: str | None = None, **limits: list[str]) -> Headers:
        claims: dict[str, Any] = {"credentials_limits": limits} if limits else {}
        headers = {"Authorization": f"Bearer {issuer.token('k1', sub=subject, roles=roles, **claims)}"}
        return headers if on_behalf_of is None else {**headers, "X-User-Id": on_behalf_of}

    return {
        "no-role": token(OWNER, []),
        "unknown": token(OWNER, ["admin", "root", "USER", "user "]),
        "user+auditor": token(OTHER, ["user", "auditor"]),
        "user+operator": token(OWNER, ["operator", "user"]),
        "user+orch": token(OWNER, ["orchestrator", "user"]),
        "auditor+operator": token("olga", ["auditor", "operator"]),
        "for-listed": token("robot", ["orchestrator"], OWNER, users=[OWNER]),
        "for-unlisted": token("robot", ["orchestrator"], OWNER, users=[OTHER]),
        "this-action": token("robot", ["orchestrator"], OWNER, actions=[this]),
        "other-actions": token("robot", ["orchestrator"], OWNER, actions=others),
        "user-other": token(OWNER, ["user"], actions=others),
        "auditor-other": token("audrey", ["auditor"], actions=others),
        "operator-users": token("olga", ["operator"], users=[OWNER, "olga"]),
        "operator-this": token("olga", ["operator"], actions=[this]),
        "operator-other": token("olga", ["operator"], actions=others),
        # of the table of what is absent
        "user": token(OWNER, ["user"]),
        "for-user": token("robot", ["orchestrator"], OWNER),
        "for-nobody": token("robot", ["orchestrator"]),
        "operator": token("olga", ["operator"]),
        "auditor": token("audrey", ["auditor"]),
        "no-token": {},
    }[column]


class Held:
    """An owner's credential that has been updated once, a suspension and a waiting job; made anew when asked."""

    def __init__(self, rest: httpx.AsyncClient, issuer: OidcIssuer, conn: Connection) -> None:
        self._rest = rest
        self._issuer = issuer
        self._conn = conn
        self.credential_id = self.job_id = self.handoff_id = str(uuid4())

    def _headers(self, column: str) -> Headers:
        return caller(self._issuer, "GET /v1/keys", column)

    async def renew(self) -> None:
        """All that a call may have used up."""
        owners, operators = self._headers("user"), self._headers("operator")
        self.credential_id = (await stored(self._rest, owners))["id"]
        keys = {name: new_body()[name] for name in ("api_key", "secret_key")}
        await self._rest.patch(f"/v1/credentials/{self.credential_id}", json=keys, headers=owners)
        for kind in ("users", "accounts"):
            await self._rest.post(f"/v1/{kind}/{SUSPENDED[f'{kind[:-1]}_id']}/suspension", headers=operators)
        await self._conn.execute("DELETE FROM jobs")
        waiting = await self._rest.post("/v1/keys/credentials-polygon/rewrap", headers=operators)
        self.job_id = str(waiting.json()["id"])

    async def hand_off(self) -> None:
        path = f"/v1/credentials/{self.credential_id}/handoff"
        self.handoff_id = (await self._rest.post(path, headers=self._headers("for-user"))).json()["handoff_id"]

    async def state(self) -> str:
        """A digest of all that a refused call leaves as it was. When a credential was last used is written later."""
        tables = ("jobs", "suspensions", "credentials", "write_intents", "idempotency_keys", "key_floors")
        rows = " UNION ALL ".join(
            f"SELECT (to_jsonb(t) - 'last_used_at')::text AS row FROM {each} AS t" for each in tables
        )
        return str(await self._conn.fetchval(f"SELECT md5(string_agg(row, ' ' ORDER BY row)) FROM ({rows}) AS found"))


@pytest.fixture(scope="module")
async def held(rest: httpx.AsyncClient, issuer: OidcIssuer, stack: Stack) -> AsyncIterator[Held]:
    conn = await asyncpg.connect(stack.owner_url)
    made = Held(rest, issuer, conn)
    await made.renew()
    yield made
    await conn.close()


def test_every_route_that_asks_for_a_right_has_a_row() -> None:
    asks = {route for route, cells in ROWS.items() if "/v1/" in route and cells[0] != "405"}
    assert set(RIGHTS) == asks
    assert set(ABSENT_CELLS) == {route for route in asks if "{" in route}
    # And every right a route, but for importing, which is a command's.
    assert set(RIGHTS.values()) == {each.value for each in Permission} - {Permission.IMPORT.value}


@pytest.mark.parametrize("route", CELLS)
async def test_each_cell_of_the_route_is_as_written(
    route: str,
    rest: httpx.AsyncClient,
    issuer: OidcIssuer,
    alpaca: AlpacaDouble,
    held: Held,
    owner_conn: Connection,
    told: dict[str, list[str]],
) -> None:
    wrong: dict[str, object] = {}
    for column, cell in CELLS[route].items():
        status, _, shown = cell.partition(":")
        if shown and not route.startswith(("GET", "HEAD")) and not route.endswith(USES_NOTHING_UP):
            await held.renew()
            if "{handoff_id}" in route:
                await held.hand_off()
        alpaca.reset()
        alpaca.script(*[json_answer(200, {})] * ("/proxy/" in route))
        before = None if shown else await held.state()
        headers = caller(issuer, route, column)
        answer = await ask(rest, route, headers, held.credential_id, held.job_id, held.handoff_id)
        told.setdefault(route, []).append(str(answer.status_code))
        fits = answer.status_code == int(status)
        if fits and shown in ("owner", "other"):
            whose = (await row_of(owner_conn, answer.json()["id"]))["user_id"]
            fits = whose == {"owner": OWNER, "other": OTHER}[shown]
        elif fits and shown:
            fits = (held.credential_id in answer.text) == (shown == "shown")
        elif fits:
            is_told = route.startswith("HEAD") or problem_of(answer)[1] == PROBLEMS[answer.status_code]
            fits = is_told and not alpaca.seen and await held.state() == before
        if not fits:
            wrong[column] = (answer.status_code, cell, answer.text)
    assert not wrong


@pytest.mark.parametrize("route", ABSENT_CELLS)
async def test_what_is_not_there_answers_as_written(
    route: str,
    rest: httpx.AsyncClient,
    issuer: OidcIssuer,
    alpaca: AlpacaDouble,
    held: Held,
    told: dict[str, list[str]],
) -> None:
    method, path = route.split()
    kind = path.split("/")[2]
    wrong: dict[str, object] = {}
    for column, cell in ABSENT_CELLS[route].items():
        alpaca.reset()
        before = await held.state()
        named = {"name": "credentials-none", "user_id": str(uuid4()), "account_id": str(uuid4())}
        headers = caller(issuer, route, column)
        answer = await ask(rest, route, headers, str(uuid4()), str(uuid4()), held.handoff_id, **named)
        told.setdefault(f"{route} (absent)", []).append(str(answer.status_code))
        fits = answer.status_code == int(cell)
        if fits and cell != "200" and method != "HEAD":
            expected = NOT_FOUND[kind] if cell == "404" else PROBLEMS[int(cell)]
            fits = problem_of(answer)[1] == expected and not alpaca.seen and await held.state() == before
        if not fits:
            wrong[column] = (answer.status_code, cell, answer.text)
    assert not wrong


async def test_a_hand_off_that_is_not_there_says_nothing_of_whose(
    rest: httpx.AsyncClient, issuer: OidcIssuer, held: Held
) -> None:
    """Of a credential that is there: a hand-off that never was answers as one of another credential."""
    await held.hand_off()
    another = held.handoff_id
    await held.renew()
    route = "POST /v1/credentials/{credential_id}/handoff/{handoff_id}/failure"
    answers = [
        await ask(rest, route, caller(issuer, route, "for-user"), held.credential_id, held.job_id, each)
        for each in (another, str(uuid4()))
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({problem_of(answer) for answer in answers}) == 1
