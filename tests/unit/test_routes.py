"""What routes answer: headers, bodies, and a document that describes them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from service.api.pagination import credential_cursor
from service.app import create_app
from service.authz.policy import Identity, Role
from service.modules.readiness import Check
from service.modules.records import Credential, ProviderVerdict, TransitReference
from tests.unit.fake_runtime import USER, Part, client_of

IDENTITIES = {"user-token": Identity(subject="alice", roles=frozenset({Role.USER}))}
WITH_BODIES = (
    "/v1/credentials",
    "/v1/credentials/validate",
    "/v1/credentials/{credential_id}/handoff",
    "/v1/credentials/{credential_id}/handoff/{handoff_id}/failure",
    "/v1/keys/{name}/retire",
    "/v1/users/{user_id}/suspension",
    "/v1/accounts/{account_id}/suspension",
)
PROXY = "/v1/credentials/{credential_id}/proxy/{path}"
JSON = {**USER, "Content-Type": "application/json"}
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def credential(number: int = 0) -> Credential:
    credential_id, account_id = uuid4(), uuid4()
    return Credential(
        id=credential_id,
        user_id="alice",
        account_id=account_id,
        credential_type="alpaca",
        account_type=None,
        is_active=True,
        reference=TransitReference(
            transit_mount="transit",
            transit_key="credentials-alpaca",
            transit_key_version=2,
            binding=b"BINDING-".ljust(32, b"-"),
            kv_mount="credentials",
            kv_path=f"{account_id}/{credential_id}",
            kv_version=5,
            secret_version=3,
        ),
        previous=None,
        row_version=7,
        validation_state="unvalidated",
        last_validated_at=None,
        last_used_at=NOW,
        created_at=NOW - timedelta(seconds=number),
        updated_at=NOW,
    )


async def test_storing_answers_201_with_address_version_and_metadata() -> None:
    part = Part()
    stored = part.result = credential()
    body = {"account_id": str(stored.account_id), "credential_type": "alpaca", "api_key": "k", "secret_key": "s"}
    async with client_of(part, IDENTITIES) as client:
        answer = await client.post("/v1/credentials", json=body, headers=USER)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/credentials/{stored.id}"
    assert answer.headers["etag"] == '"7"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "id": str(stored.id),
        "account_id": str(stored.account_id),
        "credential_type": "alpaca",
        "is_active": True,
        "created_at": "2026-01-31T12:00:00Z",
        "updated_at": "2026-01-31T12:00:00Z",
        "user_id": stored.user_id,
        "account_type": None,
        "validation_state": "unvalidated",
        "last_validated_at": None,
        "suspect_since": None,
        "last_used_at": "2026-01-31T12:00:00Z",
        "secret_version": 3,
        "transit_key": "credentials-alpaca",
        "transit_key_version": 2,
        "can_roll_back": False,
    }


async def test_a_page_links_to_the_next_one() -> None:
    part = Part()
    rows = part.result = [credential(number) for number in range(3)]
    async with client_of(part, IDENTITIES) as client:
        answer = await client.get("/v1/credentials?limit=2&is_active=true", headers=USER)
        assert [shown["id"] for shown in answer.json()["credentials"]] == [str(row.id) for row in rows[:2]]
        part.result = []
        await client.get(answer.links["next"]["url"], headers=USER)
    after = part.calls[-1][1][2]
    assert (after.at, after.id) == (rows[1].created_at, rows[1].id)
    assert credential_cursor(answer.links["next"]["url"].rpartition("cursor=")[2]) == after
    assert "limit=2&is_active=true" in answer.links["next"]["url"]


async def test_deleting_answers_204_with_nothing() -> None:
    part = Part()
    async with client_of(part, IDENTITIES) as client:
        answer = await client.delete(f"/v1/credentials/{uuid4()}", headers=USER)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers


async def test_only_the_keys_that_were_given_are_changed() -> None:
    part = Part()
    part.result = credential()
    async with client_of(part, IDENTITIES) as client:
        answer = await client.patch(f"/v1/credentials/{part.result.id}", json={"secret_key": "s"}, headers=JSON)
    assert answer.headers["etag"] == '"7"'
    ((name, _, given),) = part.calls
    assert name == "update"
    assert (given["api_key"], len(given["secret_key"]), given["is_active"]) == (None, 1, None)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (ProviderVerdict(is_valid=True, account_type="paper"), (True, "The provider accepted the keys.", "paper")),
        (ProviderVerdict(is_valid=False), (False, "The provider refused the keys.", None)),
    ],
)
async def test_a_verdict_is_told_in_full(verdict: ProviderVerdict, expected: tuple[Any, ...]) -> None:
    part = Part()
    part.result = verdict
    async with client_of(part, IDENTITIES) as client:
        keys = {"api_key": "k", "secret_key": "s"}
        given = await client.post("/v1/credentials/validate", json=keys, headers=USER)
        stored = await client.post(f"/v1/credentials/{uuid4()}/validate", headers=USER)
    assert [name for name, _, _ in part.calls] == ["validate_given", "validate_stored"]
    for answer in (given, stored):
        assert tuple(answer.json()[name] for name in ("is_valid", "message", "account_type")) == expected


@pytest.mark.parametrize("ok", [True, False])
async def test_readiness_tells_each_check_and_liveness_asks_none(ok: bool) -> None:
    part = Part()
    part.result = [Check("vault", ok, "ok" if ok else "Vault is sealed."), Check("postgres", True, "ok")]
    async with client_of(part) as client:
        ready, alive = await client.get("/readyz"), await client.get("/healthz")
    assert ready.status_code == (200 if ok else 503)
    assert ready.json()["status"] == ("ready" if ok else "not ready")
    assert [check["ok"] for check in ready.json()["checks"]] == [ok, True]
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert [name for name, _, _ in part.calls] == ["check"]


def _references(node: object) -> set[str]:
    if isinstance(node, dict):
        inner = set().union(*(_references(value) for value in node.values()))
        return inner | ({node["$ref"]} if isinstance(node.get("$ref"), str) else set())
    if isinstance(node, list):
        return set().union(*(_references(value) for value in node))
    return set()


def test_the_document_describes_every_body_and_every_error() -> None:
    document = create_app().openapi()
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert _references(document) <= schemas
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            takes_body = method == "patch" or (method == "post" and path in WITH_BODIES)
            if path == PROXY:
                takes_body = method not in ("get", "head")
            assert ("requestBody" in operation) == takes_body
            if path.startswith("/v1"):
                assert operation["security"] == [{"bearer": []}]
                assert {"401", "403", "422", "500", "502", "503"} <= operation["responses"].keys()
            for status, response in operation["responses"].items():
                if status != "default" and int(status) >= 400 and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"]


def test_a_binding_is_in_no_schema() -> None:
    assert "binding" not in str(create_app().openapi()["components"])


def test_making_the_application_reads_no_settings_and_opens_nothing() -> None:
    assert create_app().title == "vault-credentials"


async def test_a_path_with_a_newline_behind_it_is_no_path() -> None:
    """`$` of a regular expression matches before it; a front that refuses `/metrics` would have let it through."""
    document = create_app().openapi()
    async with client_of(Part()) as client:
        for path, methods in {**document["paths"], "/openapi.json": {"get": {}}, "/metrics": {"get": {}}}.items():
            if path == PROXY or path.endswith("}"):
                continue  # the newline is a part of the provider's path, or of an id
            for method in methods:
                filled = re.sub(r"\{\w+\}", str(uuid4()), path)
                answer = await client.request(method.upper(), f"{filled}%0A", headers=JSON)
                expected = 405 if path == "/v1/credentials/validate" else 404  # an id, to another route
                assert answer.status_code == expected, f"{method} {path}"
