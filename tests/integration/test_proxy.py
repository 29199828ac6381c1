"""Calls to a provider through the service: what goes on, what comes back, who may, and what is recorded."""

import gzip
from collections.abc import AsyncIterator, Callable

import pytest

from tests.doubles.alpaca import AlpacaDouble, throttled
from tests.doubles.oidc_issuer import OidcIssuer
from tests.doubles.scripted_server import json_answer, raw_answer, redirect_answer
from tests.proxying import ACCOUNT, ORDER, Proxied, events, proxied, refusal
from tests.rest import Headers, client_on, stored
from tests.stored import some_user
from tests.support import Stack
from tests.written import Connection

# What a caller could try to be heard as by the provider, or as somebody else by us.
SPOOFED = {
    "APCA-API-KEY-ID": "theirs",
    "APCA-API-SECRET-KEY": "theirs",
    "Proxy-Authorization": "Basic dGhlaXJz",
    "Cookie": "session=theirs",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-Host": "theirs.example",
    "X-Original-URL": "/theirs",
    "X-HTTP-Method-Override": "DELETE",
    "X-Api-Key": "theirs",
    "Connection": "keep-alive, X-Hop",
    "X-Hop": "theirs",
    "TE": "trailers",
}


@pytest.fixture(scope="module")
async def service(stack: Stack, bearer: Callable[..., Headers]) -> AsyncIterator[Proxied]:
    async with proxied(stack, bearer) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_seen(service: Proxied) -> None:
    for each in (service.alpaca, service.data, service.polygon):
        each.reset()


# --- what goes on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "v2/orders?status=all&limit=5"),
        ("HEAD", ACCOUNT),
        ("POST", "v2/orders"),
        ("PUT", "v2/watchlists/6f9619ff-8b86-4011-b42d-00c04fc964ff"),
        ("PATCH", "v2/account/configurations"),
        ("DELETE", "v2/orders"),
    ],
)
async def test_every_method_reaches_the_provider_with_the_credentials_keys_and_nothing_of_the_callers(
    method: str, path: str, service: Proxied
) -> None:
    held = await service.held()
    body = b'{"a": 1}' if method in ("POST", "PUT", "PATCH") else None
    headers = {**SPOOFED, "Accept": "application/json", "If-Match": '"1"'}
    service.alpaca.script(json_answer(200, {"ok": True}))
    answer = await service.call(
        held, method, path, content=body, headers=headers | ({"Content-Type": "application/json"} if body else {})
    )
    assert (answer.status_code, answer.headers["x-answered-by"]) == (200, "provider")
    (seen,) = service.alpaca.seen
    assert (seen.method, seen.target, seen.body) == (method, f"/{path}", body or b"")
    fields = {name.lower().decode(): value.decode() for name, value in seen.fields}
    assert len(fields) == len(seen.fields)
    expected = {
        "host": service.alpaca.url.removeprefix("http://"),
        "apca-api-key-id": held.keys[0],
        "apca-api-secret-key": held.keys[1],
        "accept": "application/json",
        "accept-encoding": fields["accept-encoding"],
        "if-match": '"1"',
        "user-agent": "vault-credentials",
    }
    if body:
        expected |= {"content-type": "application/json", "content-length": str(len(body))}
    elif method == "DELETE":
        expected |= {"content-length": "0"}
    assert fields == expected
    assert held.headers["Authorization"] not in str(seen.fields)


async def test_a_chunked_body_goes_on_chunked(service: Proxied) -> None:
    held = await service.held()

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"symbol": "AAPL",'
        yield b' "qty": "1"}'

    await service.call(held, "POST", "v2/orders", content=pieces())
    (seen,) = service.alpaca.seen
    assert seen.body == b'{"symbol": "AAPL", "qty": "1"}'
    assert seen.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in seen.headers


async def test_market_data_is_asked_of_its_own_host(service: Proxied) -> None:
    held = await service.held()
    answer = await service.call(held, "GET", "v2/stocks/AAPL/trades/latest?feed=iex")
    assert answer.json()["symbol"] == "AAPL"
    assert [each.target for each in service.data.seen] == ["/v2/stocks/AAPL/trades/latest?feed=iex"]
    assert not service.alpaca.seen


async def test_polygon_gets_a_bearer_header_and_never_a_key_in_its_url(service: Proxied) -> None:
    held = await service.held("polygon")
    answer = await service.call(held, "GET", "v2/last/trade/AAPL")
    assert answer.json()["results"]["T"] == "AAPL"
    (seen,) = service.polygon.seen
    assert seen.headers["authorization"] == f"Bearer {held.keys[0]}"
    assert held.keys[1] not in str(seen.fields)
    for query in ("apiKey=theirs", "api%4bey=theirs", "a=b;API_KEY=theirs", "api%254bey=theirs"):
        assert refusal(await service.call(held, "GET", f"v2/last/trade/AAPL?{query}")) == (422, "invalid-input")
    assert refusal(await service.call(held, "POST", "v2/last/trade/AAPL")) == (403, "proxy-refused")
    assert len(service.polygon.seen) == 1


# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 207, 400, 403, 404, 418, 422, 500, 503, 599])
async def test_the_providers_answer_comes_back_as_it_is_and_is_said_to_be_theirs(status: int, service: Proxied) -> None:
    held = await service.held()
    service.alpaca.script(
        raw_answer(
            status,
            b'{"theirs": 1}',
            {
                "Content-Type": "application/json",
                "Set-Cookie": "a=b",
                "Cache-Control": "public, max-age=600",
                "WWW-Authenticate": "Basic",
                "Access-Control-Allow-Origin": "*",
                "X-Request-ID": "their-request",
                "X-Answered-By": "service",
            },
        )
    )
    answer = await service.call(held, "GET")
    assert (answer.status_code, answer.content) == (status, b'{"theirs": 1}')
    assert answer.headers.get_list("x-answered-by") == ["provider"]
    assert answer.headers["x-provider-request-id"] == "their-request"
    assert answer.headers["x-request-id"] != "their-request"
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert not {"set-cookie", "www-authenticate", "access-control-allow-origin", "server"} & set(answer.headers)
    await service.call(held, "GET")
    assert "cookie" not in service.alpaca.seen[-1].headers


async def test_the_providers_wish_to_be_left_alone_comes_back(service: Proxied) -> None:
    held = await service.held()
    service.alpaca.script(throttled("17"))
    answer = await service.call(held, "POST", "v2/orders", json=ORDER)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "17")
    assert answer.headers["x-answered-by"] == "provider"


async def test_a_compressed_answer_is_passed_on_as_it_is(service: Proxied) -> None:
    held = await service.held()
    packed = gzip.compress(b"a" * 10_000)
    service.alpaca.script(raw_answer(200, packed, {"Content-Encoding": "gzip"}))
    async with service.client.stream("GET", held.address(ACCOUNT), headers=held.headers) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert b"".join([piece async for piece in answer.aiter_raw()]) == packed
    service.alpaca.script(raw_answer(200, b"{}"))
    headers = {**held.headers, "Accept-Encoding": ""}
    await service.client.get(held.address(ACCOUNT), headers=headers)
    assert service.alpaca.seen[-1].headers["accept-encoding"] in ("identity", "")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("DELETE", 204), ("HEAD", 404)])
async def test_an_answer_without_a_body_ends_and_the_connection_is_good_for_more(
    method: str, status: int, service: Proxied
) -> None:
    held = await service.held()
    service.alpaca.script(raw_answer(status, b"" if status in (204, 304) else b"12345"))
    path = "v2/orders" if method == "DELETE" else ACCOUNT
    answer = await service.call(held, method, path, headers={"If-None-Match": '"1"'})
    assert (answer.status_code, answer.content) == (status, b"")
    assert (answer.headers.get("content-length") == "5") is (method == "HEAD")
    assert (await service.call(held, "GET")).json()["cash"] == "100000"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 305])
async def test_a_redirect_is_neither_followed_nor_passed_on(status: int, service: Proxied) -> None:
    held = await service.held()
    to = f"{service.data.url}/v2/account"
    for method, path, expected in (
        ("GET", ACCOUNT, (503, "provider-refused")),
        ("POST", "v2/orders", (502, "provider-outcome-unknown")),
    ):
        service.alpaca.script(redirect_answer(to, status))
        answer = await service.call(held, method, path)
        assert refusal(answer) == expected
        assert "location" not in answer.headers
        assert to not in answer.text
    assert (len(service.alpaca.seen), len(service.data.seen)) == (2, 0)


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_another_users_credential_is_answered_just_as_none(service: Proxied) -> None:
    held = await service.held()
    stranger = service.bearer("user", "a-stranger")
    for method, path in (("GET", ACCOUNT), ("POST", "v2/orders"), ("DELETE", "v2/orders"), ("GET", "v2/nonsense")):
        theirs, none = [
            await service.client.request(method, f"/v1/credentials/{each}/proxy/{path}", headers=stranger)
            for each in (held.id, "6f9619ff-8b86-4011-b42d-00c04fc964ff")
        ]
        assert refusal(theirs) == refusal(none) == (404, "credential-not-found")
        same = [{**each.json(), "instance": ""} for each in (theirs, none)]
        assert same[0] == same[1]
        varying = ("date", "x-request-id", "ratelimit")
        assert [(n, v) for n, v in theirs.headers.items() if n not in varying] == [
            (n, v) for n, v in none.headers.items() if n not in varying
        ]
    assert service.seen() == 0


async def test_a_role_may_call_what_the_setting_says(stack: Stack, bearer: Callable[..., Headers]) -> None:
    allow = {"user": ("GET /v2/*",), "orchestrator": ()}
    async with proxied(stack, bearer, proxy_allow=allow) as service:
        held = await service.held()
        assert (await service.call(held, "GET")).status_code == 200
        assert (await service.call(held, "HEAD")).status_code == 200
        assert refusal(await service.call(held, "POST", "v2/orders", json=ORDER)) == (403, "proxy-refused")
        assert refusal(await service.call(held, "GET", "v3/clock")) == (403, "proxy-refused")
        robot = {**bearer("orchestrator", "robot"), "X-User-Id": held.user_id}
        answer = await service.client.get(held.address(ACCOUNT), headers=robot)
        assert refusal(answer) == (403, "proxy-refused")
        assert [each.method for each in service.alpaca.seen] == ["GET", "HEAD"]


async def test_a_token_whose_limits_lack_trading_can_only_read(stack: Stack) -> None:
    user = some_user()
    async with OidcIssuer() as issuer, AlpacaDouble() as alpaca:
        issuer.add_key("k1")
        settings = stack.settings(oidc_issuer=issuer.url, oidc_user_claim="sub", alpaca_base_url=alpaca.url)

        def headers(*actions: str) -> Headers:
            limits = {"credentials_limits": {"actions": list(actions)}} if actions else {}
            return {"Authorization": f"Bearer {issuer.token('k1', sub=user, **limits)}"}

        async with client_on(settings) as client:
            address = f"/v1/credentials/{(await stored(client, headers()))['id']}/proxy"
            alpaca.script(json_answer(200, {}), json_answer(200, {}))
            reads, trades = headers("credentials:proxy"), headers("credentials:trade", "credentials:read")
            assert (await client.get(f"{address}/{ACCOUNT}", headers=reads)).status_code == 200
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                answer = await client.request(method, f"{address}/v2/orders", headers=reads)
                assert refusal(answer) == (403, "permission-denied")
            assert refusal(await client.get(f"{address}/{ACCOUNT}", headers=trades)) == (403, "permission-denied")
            assert (await client.post(f"{address}/v2/orders", headers=trades)).status_code == 200
            assert [each.method for each in alpaca.seen] == ["GET", "POST"]


async def test_live_or_paper_has_to_be_known_where_it_says_which_host(
    stack: Stack, bearer: Callable[..., Headers], owner_conn: Connection
) -> None:
    async with client_on(stack.settings()) as client:
        headers = bearer("user", "not-known")
        made = await stored(client, headers)
        answer = await client.get(f"/v1/credentials/{made['id']}/proxy/{ACCOUNT}", headers=headers)
        assert refusal(answer) == (409, "account-type-unknown")
        assert await events(owner_conn, made["id"]) == [
            ("proxy", "granted", None),
            ("proxy", "failed", "account_type_unknown"),
        ]


# --- what is recorded -------------------------------------------------------------------------------------------------


async def test_each_call_is_an_event_and_each_refusal_says_why(service: Proxied, owner_conn: Connection) -> None:
    held = await service.held()
    assert (await service.call(held, "GET")).status_code == 200
    assert (await service.call(held, "HEAD")).status_code == 200
    assert (await service.call(held, "POST", "v2/orders", json=ORDER)).status_code == 200
    assert (await service.call(held, "DELETE", "v2/orders")).status_code == 207
    assert refusal(await service.call(held, "GET", "v2/wallets")) == (403, "proxy-refused")
    assert refusal(await service.call(held, "OPTIONS", ACCOUNT)) == (403, "proxy-refused")
    stranger = service.bearer("user", "a-recorded-stranger")
    assert (await service.client.get(held.address(ACCOUNT), headers=stranger)).status_code == 404
    await service.client.patch(f"/v1/credentials/{held.id}", json={"is_active": False}, headers=held.headers)
    assert refusal(await service.call(held, "POST", "v2/orders", json=ORDER)) == (409, "credential-inactive")
    assert await events(owner_conn, held.id) == [
        ("proxy", "granted", None),
        ("proxy", "granted", None),
        ("trade", "granted", None),
        ("trade", "granted", None),
        ("proxy", "granted", None),
        ("proxy", "failed", "proxy_refused"),
        ("trade", "granted", None),
        ("trade", "failed", "proxy_refused"),
        ("proxy", "denied", "not_owner"),
        ("disable", "done", None),
        ("trade", "denied", "inactive"),
    ]
    assert [each.method for each in service.alpaca.seen] == ["GET", "HEAD", "POST", "DELETE"]


async def test_what_is_no_id_is_denied_and_recorded(service: Proxied, owner_conn: Connection) -> None:
    headers = service.bearer("user", "proxy-no-id")
    answer = await service.client.get(f"/v1/credentials/no-id/proxy/{ACCOUNT}", headers=headers)
    assert refusal(answer) == (422, "invalid-input")
    row = await owner_conn.fetchrow(
        "SELECT action, outcome, credential_id FROM credential_events WHERE acting_user = $1", "proxy-no-id"
    )
    assert row is not None
    assert tuple(row) == ("proxy", "denied", None)


async def test_without_a_token_nothing_else_is_looked_at(service: Proxied) -> None:
    held = await service.held()
    for path in (ACCOUNT, "v2/../v1", "%2e%2e", ""):
        answer = await service.client.get(f"/v1/credentials/{held.id}/proxy/{path}")
        assert refusal(answer)[0] in (401, 404)
    for role in ("operator", "auditor"):
        for method in ("GET", "POST"):
            answer = await service.client.request(
                method, held.address(ACCOUNT), headers=service.bearer(role, "somebody")
            )
            assert refusal(answer) == (403, "permission-denied")
    assert service.seen() == 0
