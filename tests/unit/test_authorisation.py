"""What the authorisation dependencies make of a request's headers."""

import hashlib

import pytest

from service.authz.policy import Identity, Role
from service.errors import CredentialNotFound
from service.modules.records import AuditAccess, OwnerAccess
from tests.unit.fake_runtime import Part, client_of

IDENTITIES = {f"{role}-token": Identity(subject=f"the-{role}", roles=frozenset({role})) for role in Role} | {
    "roleless": Identity(subject="nobody", roles=frozenset())
}
PATH = "/v1/credentials/6f9619ff-8b86-4011-b42d-00c04fc964ff"
ROUTES = [
    ("POST", "/v1/credentials"),
    ("GET", "/v1/credentials"),
    ("GET", PATH),
    ("PATCH", PATH),
    ("DELETE", PATH),
    ("POST", f"{PATH}/rollback"),
    ("POST", f"{PATH}/validate"),
    ("POST", "/v1/credentials/validate"),
    ("GET", f"{PATH}/events"),
    ("GET", "/v1/events"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_under_v1_is_reached_without_a_token(method: str, path: str) -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        # Everything else is wrong, too: whoever has no token learns nothing about that.
        answer = await client.request(method, path + "?unknown=1", content=b"{", headers={"If-Match": "?"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="vault-credentials"'
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert part.calls == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("token", ["roleless", "operator-token"])
async def test_no_route_of_credentials_is_an_operators_or_a_strangers(method: str, path: str, token: str) -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        answer = await client.request(method, path, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    assert part.calls == []


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[0] != "GET"])
async def test_an_auditor_changes_nothing(method: str, path: str) -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        answer = await client.request(method, path, headers={"Authorization": "Bearer auditor-token"})
    assert answer.status_code == 403
    assert part.calls == []


@pytest.mark.parametrize(
    ("given", "challenge"),
    [
        ("", 'Bearer realm="vault-credentials"'),
        ("Basic dXNlcjpwYXNz", 'Bearer realm="vault-credentials"'),
        ("user-token", 'Bearer realm="vault-credentials"'),
        ("Bearer", 'Bearer realm="vault-credentials", error="invalid_token"'),
        ("Bearer ", 'Bearer realm="vault-credentials", error="invalid_token"'),
        ("Bearer\tuser-token", 'Bearer realm="vault-credentials", error="invalid_token"'),
        ("Bearer user-token, Bearer user-token", 'Bearer realm="vault-credentials", error="invalid_token"'),
        ("Bearer user token", 'Bearer realm="vault-credentials", error="invalid_token"'),
        ("Bearer unknown", 'Bearer realm="vault-credentials", error="invalid_token"'),
    ],
)
async def test_a_header_without_a_good_bearer_token_is_401(given: str, challenge: str) -> None:
    async with client_of(Part(), IDENTITIES) as client:
        answer = await client.get(PATH, headers={"Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == challenge


async def test_two_authorization_headers_are_refused() -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        twice = [("Authorization", "Bearer user-token"), ("Authorization", "Bearer user-token")]
        answer = await client.get(PATH, headers=twice)
    assert answer.status_code == 401
    assert part.calls == []


async def test_the_scheme_may_be_in_any_case() -> None:
    part = Part()
    part.result = CredentialNotFound()
    async with client_of(part, IDENTITIES) as client:
        answer = await client.get(PATH, headers={"Authorization": "bEARER user-token"})
    assert answer.status_code == 404


async def test_without_an_issuer_nobody_is_let_in() -> None:
    part = Part()
    async with client_of(part, None) as client:
        answer = await client.get(PATH, headers={"Authorization": "Bearer user-token"})
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:vault-credentials:error:misconfigured"
    assert part.calls == []


async def test_the_access_carries_user_actor_and_request_id() -> None:
    part = Part()
    part.result = CredentialNotFound()
    async with client_of(part, IDENTITIES) as client:
        on_behalf = {"Authorization": "Bearer orchestrator-token", "X-User-Id": "bøb".encode(), "X-Request-Id": "r-2"}
        answers = [
            await client.get(PATH, headers={"Authorization": "Bearer user-token", "X-Request-Id": "r-1"}),
            await client.get(PATH, headers=on_behalf),  # type: ignore[arg-type]  # bytes: the header is UTF-8
            await client.get(PATH, headers={"Authorization": "Bearer auditor-token", "X-Request-Id": "r-3"}),
        ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert not {"r-1", "r-2", "r-3"} & set(ids)
    assert [args[0] for _, args, _ in part.calls] == [
        OwnerAccess(user_id="the-user", actor="user:the-user", request_id=ids[0]),
        OwnerAccess(user_id="bøb", actor="orchestrator:the-orchestrator", request_id=ids[1]),
        AuditAccess(actor="auditor:the-auditor", request_id=ids[2]),
    ]


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"", b"a\x7fb", b" bob", b"bob ", "b\u200bob".encode(), "o\u0308".encode()]
)
async def test_an_orchestrators_user_must_be_a_name(name: bytes) -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        headers = [(b"Authorization", b"Bearer orchestrator-token"), (b"X-User-Id", name)]
        answer = await client.get(PATH, headers=headers)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["X-User-Id"]
    assert part.calls == []


async def test_a_denial_is_logged_without_a_name(caplog: pytest.LogCaptureFixture) -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        await client.get(PATH, headers={"Authorization": "Bearer operator-token"})
        await client.post("/v1/credentials", headers={"Authorization": "Bearer auditor-token"})
        await client.get(PATH, headers={"Authorization": "Bearer user-token", "X-User-Id": "bob"})
    found = [vars(line) for line in caplog.records if line.name == "service.authz.dependencies"]
    assert [(line["levelname"], line["msg"], line["roles"], line["permission"]) for line in found] == [
        ("WARNING", "permission denied", ["operator"], "credentials:read"),
        ("WARNING", "permission denied", ["auditor"], "credentials:store"),
        ("WARNING", "permission denied", ["user"], "credentials:read"),
    ]
    assert found[0]["subject_sha256"] == hashlib.sha256(b"the-operator").hexdigest()[:12]
    assert not any(name in repr(found) for name in ("the-operator", "the-auditor", "the-user", "bob"))


async def test_what_is_allowed_is_logged_as_no_denial(caplog: pytest.LogCaptureFixture) -> None:
    part = Part()
    part.result = CredentialNotFound()
    async with client_of(part, IDENTITIES) as client:
        await client.get(PATH, headers={"Authorization": "Bearer user-token"})
    assert "permission denied" not in caplog.text


async def test_two_users_at_once_are_refused() -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        headers = [("Authorization", "Bearer orchestrator-token"), ("X-User-Id", "bob"), ("X-User-Id", "eve")]
        answer = await client.get(PATH, headers=headers)
    assert answer.status_code == 422
    assert part.calls == []


@pytest.mark.parametrize("token", ["user-token", "auditor-token", "operator-token"])
async def test_x_user_id_from_others_than_orchestrators_is_403(token: str) -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        answer = await client.get(PATH, headers={"Authorization": f"Bearer {token}", "X-User-Id": "bob"})
    assert answer.status_code == 403
    assert part.calls == []
