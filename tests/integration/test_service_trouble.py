"""Vault or Postgres in trouble while the service serves: each trouble's status and Retry-After, and that it passes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from aiohttp import web

from service.app import create_app
from service.errors import ConfigurationError
from service.postgres.migrate import migrate
from tests.databases import in_database, own_database
from tests.doubles.scripted_server import Answer, html_answer, json_answer, redirect_answer, reset_answer
from tests.rest import Headers, client_on, new_body, problem_of, stored
from tests.security.watched_vault import WatchedVault
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection

CLOSED = "127.0.0.1:1"
ENCRYPT, DECRYPT, KV, LOGIN = (
    "/v1/transit/encrypt/",
    "/v1/transit/decrypt/",
    "/v1/credentials/data/",
    "/v1/auth/approle/",
)


async def _nothing(_path: str, _batch: str) -> None:
    return None


class TroubledVault(WatchedVault):
    """The real Vault, but for what is asked below one path, which gets a fault for an answer."""

    def __init__(self, address: str) -> None:
        super().__init__(address, _nothing)
        self.below = ""
        self.fault: Answer | None = None

    async def usual(self, request: web.Request) -> web.StreamResponse:
        if self.fault is not None and request.path.startswith(self.below):
            return await self.fault(request)
        return await super().usual(request)


@pytest.fixture(scope="module")
async def vault(stack: Stack) -> AsyncIterator[TroubledVault]:
    async with TroubledVault(stack.vault_addr) as server:
        yield server


@pytest.fixture(scope="module")
async def rest(stack: Stack, vault: TroubledVault) -> AsyncIterator[httpx.AsyncClient]:
    settings = stack.settings(vault_addr=vault.url, vault_timeout=1.0, vault_retries=0)
    async with client_on(settings) as client:
        yield client


@pytest.fixture
def user(bearer: Callable[..., Headers], vault: TroubledVault) -> Headers:
    vault.fault = None
    return bearer("user", some_user())


def errors(*told: str) -> dict[str, list[str]]:
    return {"errors": list(told)}


# What Vault answers; what the service then does, and after how many seconds it says to try again.
TROUBLE: dict[str, tuple[Answer, tuple[int, str, str | None]]] = {
    "sealed": (json_answer(503, errors("Vault is sealed")), (503, "vault-sealed", "10")),
    "a standby": (json_answer(473, errors()), (503, "vault-standby", "2")),
    "throttled": (json_answer(429, errors("request path exceeded limit")), (503, "vault-throttled", "1")),
    "throttled for 7 s": (json_answer(429, errors(), {"Retry-After": "7"}), (503, "vault-throttled", "7")),
    "denied": (json_answer(403, errors("permission denied")), (502, "vault-denied", None)),
    "refused": (json_answer(400, errors("no")), (502, "vault-refused", None)),
    "500": (json_answer(500, errors("internal error")), (503, "vault-unavailable", "2")),
    "a load balancer's page": (html_answer(502), (503, "vault-unavailable", "2")),
    "not Vault": (html_answer(200), (503, "vault-unavailable", "5")),
    "a standby that redirects": (redirect_answer("http://127.0.0.1:9/", 307), (503, "vault-standby", "2")),
    "the connection broken": (reset_answer, (503, "vault-unavailable", "2")),
}


@pytest.mark.parametrize("below", [ENCRYPT, KV])
@pytest.mark.parametrize(("fault", "told"), TROUBLE.values(), ids=TROUBLE.keys())
async def test_a_store_in_vaults_trouble_stores_nothing_and_can_be_sent_again(
    fault: Answer,
    told: tuple[int, str, str | None],
    below: str,
    rest: httpx.AsyncClient,
    user: Headers,
    vault: TroubledVault,
) -> None:
    headers = {**user, "Idempotency-Key": str(uuid4())}
    body = new_body()
    vault.below, vault.fault = below, fault
    assert problem_of(await rest.post("/v1/credentials", json=body, headers=headers)) == told
    assert (await rest.get("/v1/credentials", headers=user)).json()["count"] == 0
    vault.fault = None
    assert (await rest.post("/v1/credentials", json=body, headers=headers)).status_code == 201
    assert (await rest.get("/v1/credentials", headers=user)).json()["count"] == 1


@pytest.mark.parametrize(("fault", "told"), TROUBLE.values(), ids=TROUBLE.keys())
async def test_what_has_to_be_opened_in_vaults_trouble_stays_as_it_is(
    fault: Answer, told: tuple[int, str, str | None], rest: httpx.AsyncClient, user: Headers, vault: TroubledVault
) -> None:
    made = await stored(rest, user)
    path = f"/v1/credentials/{made['id']}"
    await rest.patch(path, json={"secret_key": "SK"}, headers=user)
    before = (await rest.get(path, headers=user)).json()
    vault.below, vault.fault = DECRYPT, fault
    for answer in (
        await rest.post(f"{path}/validate", headers=user),
        await rest.patch(path, json={"api_key": "AK"}, headers=user),
        await rest.post(f"{path}/rollback", headers=user),
    ):
        assert problem_of(answer) == told
    assert _but_for_use((await rest.get(path, headers=user)).json()) == _but_for_use(before)
    events = (await rest.get(f"{path}/events?outcome=failed", headers=user)).json()["events"]
    assert len(events) == 3
    vault.fault = None
    assert (await rest.patch(path, json={"api_key": "AK"}, headers=user)).headers["etag"] == '"3"'


def _but_for_use(shown: dict[str, Any]) -> dict[str, Any]:
    """`last_used_at` is written in the background."""
    return {name: value for name, value in shown.items() if name != "last_used_at"}


@pytest.mark.parametrize("fault", [json_answer(400, errors("invalid role or secret ID")), json_answer(403, errors())])
async def test_a_login_that_vault_refuses_is_502(
    fault: Answer, stack: Stack, user: Headers, vault: TroubledVault
) -> None:
    async with client_on(stack.settings(vault_addr=vault.url, vault_retries=0)) as fresh:
        vault.below, vault.fault = LOGIN, fault
        answer = await fresh.post("/v1/credentials", json=new_body(), headers=user)
        assert problem_of(answer) == (502, "vault-denied", None)
        vault.fault = None
        assert (await fresh.post("/v1/credentials", json=new_body(), headers=user)).status_code == 201


async def test_a_vault_that_never_answers_is_given_up_in_time(
    rest: httpx.AsyncClient, user: Headers, vault: TroubledVault
) -> None:
    for how in (vault.silent, vault.trickle):
        vault.below, vault.fault = ENCRYPT, how
        began = time.monotonic()
        answer = await rest.post("/v1/credentials", json=new_body(), headers=user)
        assert problem_of(answer) == (503, "vault-unavailable", "2")
        assert time.monotonic() - began < 5


async def test_a_fault_that_passes_is_not_seen_where_repeating_is_safe(
    stack: Stack, user: Headers, vault: TroubledVault
) -> None:
    async with client_on(stack.settings(vault_addr=vault.url)) as patient:
        await stored(patient, user)
        tries = 0

        async def twice(request: web.Request) -> web.StreamResponse:
            nonlocal tries
            tries += 1
            if tries == 2:
                vault.fault = None
            return await json_answer(500, errors("internal error"))(request)

        vault.below, vault.fault = ENCRYPT, twice
        await stored(patient, user)
        assert tries == 2


async def test_without_vault_metadata_is_answered_and_a_deletion_is_done(
    stack: Stack, user: Headers, rest: httpx.AsyncClient, owner_conn: Connection
) -> None:
    made = await stored(rest, user)
    path = f"/v1/credentials/{made['id']}"
    async with client_on(stack.settings(vault_addr=f"http://{CLOSED}", vault_retries=0)) as alone:
        for method, address, body, expected in (
            ("GET", path, None, 200),
            ("GET", "/v1/credentials", None, 200),
            ("GET", f"{path}/events", None, 200),
            ("PATCH", path, {"is_active": False}, 200),
            ("PATCH", path, {"api_key": "AK", "secret_key": "SK"}, 503),
            ("PATCH", path, {"api_key": "AK"}, 503),
            ("POST", f"{path}/validate", None, 503),
            ("POST", "/v1/credentials", new_body(), 503),
            ("DELETE", path, None, 204),
            ("GET", path, None, 404),
        ):
            answer = await alone.request(method, address, json=body, headers=user)
            assert answer.status_code == expected, (method, address)
            if expected == 503:
                assert problem_of(answer) == (503, "vault-unavailable", "2")
    # The ciphertext, which nothing opens any more, is accounted for.
    left = "SELECT count(*) FROM write_intents WHERE kv_path = $1 AND kv_version IS NULL"
    accounted = await owner_conn.fetchval(left, f"{made['account_id']}/{made['id']}")
    gone = stack.vault("GET", f"credentials/metadata/{made['account_id']}/{made['id']}").status_code == 404
    assert accounted or gone  # an application of another test may have reconciled it by now


# --- Postgres -----------------------------------------------------------------------------------------------------


def requests_for(path: str) -> list[tuple[str, str, Any]]:
    """One good request for each route that needs Postgres."""
    return [
        ("POST", "/v1/credentials", new_body()),
        ("GET", "/v1/credentials", None),
        ("GET", path, None),
        ("PATCH", path, {"is_active": False}),
        ("PATCH", path, {"api_key": "AK"}),
        ("DELETE", path, None),
        ("POST", f"{path}/rollback", None),
        ("POST", f"{path}/validate", None),
        ("GET", f"{path}/events", None),
        ("GET", "/v1/events", None),
    ]


async def test_without_postgres_every_route_is_503(stack: Stack, user: Headers) -> None:
    async with client_on(stack.settings(database_url=f"postgresql://u:p@{CLOSED}/d")) as alone:
        for method, address, body in requests_for(f"/v1/credentials/{uuid4()}"):
            answer = await alone.request(method, address, json=body, headers=user)
            assert problem_of(answer) == (503, "database-unavailable", "2"), (method, address)


async def test_on_a_database_that_is_not_migrated_every_route_is_503(stack: Stack, user: Headers) -> None:
    async with (
        own_database(stack) as name,
        client_on(stack.settings(database_url=in_database(stack.runtime_url, name))) as early,
    ):
        for method, address, body in requests_for(f"/v1/credentials/{uuid4()}"):
            answer = await early.request(method, address, json=body, headers=user)
            assert problem_of(answer) == (503, "database-not-ready", "30"), (method, address)


@asynccontextmanager
async def served_database(stack: Stack, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Connection, str]]:
    """The service on a database of the test's own, and the owner's connection to it."""
    async with own_database(stack) as name:
        url = in_database(stack.owner_url, name)
        await migrate(url, transit_keys=["credentials-alpaca"])
        conn = await asyncpg.connect(url)
        await conn.execute("UPDATE installation SET id = $1", stack.installation_id)
        settings = {"database_url": in_database(stack.runtime_url, name), **settings}
        try:
            async with client_on(stack.settings(**settings)) as client:
                yield client, conn, name
        finally:
            await conn.close()


async def test_postgres_gone_and_back_is_503_and_then_served_again(
    stack: Stack, user: Headers, owner_conn: Connection
) -> None:
    async with served_database(stack) as (client, conn, name):
        made = await stored(client, user)
        path = f"/v1/credentials/{made['id']}"
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> $2"
        await owner_conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await owner_conn.execute(others, name, conn.get_server_pid())
        for method, address, body in requests_for(path):
            answer = await client.request(method, address, json=body, headers=user)
            assert problem_of(answer) == (503, "database-unavailable", "2"), (method, address)
        await owner_conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        found = await client.get(path, headers=user)
        assert (found.status_code, found.headers["etag"]) == (200, '"1"')
        assert (await client.patch(path, json={"api_key": "AK"}, headers=user)).status_code == 200


async def test_connections_that_postgres_cut_are_replaced(stack: Stack, user: Headers, owner_conn: Connection) -> None:
    async with served_database(stack) as (client, conn, name):
        made = await stored(client, user)
        await asyncio.gather(*(client.get("/v1/credentials", headers=user) for _ in range(5)))
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> $2"
        await owner_conn.execute(others, name, conn.get_server_pid())
        await asyncio.sleep(0.2)
        assert (await client.get(f"/v1/credentials/{made['id']}", headers=user)).status_code == 200


async def test_a_table_that_stays_locked_is_503_in_time_for_all_who_wait(stack: Stack, user: Headers) -> None:
    async with served_database(stack, database_timeout=0.5, database_pool_size=2) as (client, conn, _name):
        await stored(client, user)
        async with conn.transaction():
            await conn.execute("LOCK TABLE credentials IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            answers = await asyncio.gather(*(client.get("/v1/credentials", headers=user) for _ in range(8)))
            assert time.monotonic() - began < 5
            assert {problem_of(answer) for answer in answers} == {(503, "database-unavailable", "2")}
        assert (await client.get("/v1/credentials", headers=user)).json()["count"] == 1


# --- the token issuer ---------------------------------------------------------------------------------------------


async def test_an_issuer_that_cannot_be_asked_is_503(stack: Stack, user: Headers) -> None:
    async with client_on(stack.settings(oidc_issuer=f"http://{CLOSED}")) as client:
        answer = await client.get("/v1/credentials", headers=user)
        assert problem_of(answer) == (503, "issuer-unavailable", "5")


def test_without_an_issuer_there_is_no_application(stack: Stack) -> None:
    with pytest.raises(ConfigurationError, match="CREDENTIALS_OIDC_ISSUER"):
        create_app(stack.settings(oidc_issuer=None))
