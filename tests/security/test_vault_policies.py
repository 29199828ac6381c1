"""Invariant 8 at Vault: the runtime's own token does what the service needs, and is refused everything else.

Asked of a real Vault, with the token the service itself logs in for. A refusal is 403: what is refused for another
reason (404, 400) would be allowed on another day.
"""

import base64
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.localstack import identity_tokens
from tests.support import Stack

ALPACA = "credentials-alpaca"
POLYGON = "credentials-polygon"
IDEMPOTENCY = "credentials-idempotency"
CONTEXT = base64.b64encode(b"c" * 32).decode()
PLAINTEXT = base64.b64encode(b"plaintext").decode()
SEALED = {"plaintext": PLAINTEXT, "context": CONTEXT}


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    return stack.runtime_token()


@pytest.fixture(scope="module")
def path(stack: Stack) -> Iterator[str]:
    """A KV path with two versions, as a stored credential has it."""
    made = f"{uuid4()}/{uuid4()}"
    for cas in (0, 1):
        body = {"data": {"ciphertext": "vault:v1:x"}, "options": {"cas": cas}}
        assert stack.vault("POST", f"credentials/data/{made}", body).is_success
    yield made
    stack.vault("DELETE", f"credentials/metadata/{made}")


def test_the_runtime_token_has_its_own_policy_and_no_other(stack: Stack, token: str) -> None:
    seen = stack.vault("GET", "auth/token/lookup-self", token=token).json()["data"]
    assert seen["policies"] == ["credentials-runtime"]
    assert seen["ttl"] <= 3600
    assert seen["renewable"]


@pytest.mark.parametrize("key", [ALPACA, POLYGON])
def test_the_runtime_encrypts_and_decrypts_under_each_types_key(stack: Stack, token: str, key: str) -> None:
    single = stack.vault("POST", f"transit/encrypt/{key}", SEALED, token=token).json()["data"]["ciphertext"]
    body: dict[str, Any] = {"batch_input": [SEALED], "partial_failure_response_code": 200}
    batch = stack.vault("POST", f"transit/encrypt/{key}", body, token=token).json()["data"]["batch_results"]
    items = [{"ciphertext": each, "context": CONTEXT} for each in (single, batch[0]["ciphertext"])]
    opened = stack.vault("POST", f"transit/decrypt/{key}", items[0], token=token)
    assert opened.json()["data"]["plaintext"] == PLAINTEXT
    body = {"batch_input": items, "partial_failure_response_code": 200}
    opened = stack.vault("POST", f"transit/decrypt/{key}", body, token=token)
    assert [each["plaintext"] for each in opened.json()["data"]["batch_results"]] == [PLAINTEXT, PLAINTEXT]
    described = stack.vault("GET", f"transit/keys/{key}", token=token).json()["data"]
    assert described["derived"]
    assert not described["exportable"]


def test_the_runtime_compares_request_bodies_by_hmac(stack: Stack, token: str) -> None:
    made = stack.vault("POST", f"transit/hmac/{IDEMPOTENCY}", {"input": PLAINTEXT}, token=token).json()["data"]["hmac"]
    checked = stack.vault("POST", f"transit/verify/{IDEMPOTENCY}", {"input": PLAINTEXT, "hmac": made}, token=token)
    assert checked.json()["data"]["valid"] is True


def test_the_runtime_keeps_ciphertext_from_first_write_to_deletion(stack: Stack, token: str) -> None:
    made = f"{uuid4()}/{uuid4()}"

    def ask(method: str, where: str, body: Any = None) -> httpx.Response:
        answer = stack.vault(method, where, body, token=token)
        assert answer.is_success, f"{answer.status_code} to {method} {where}"
        return answer

    for cas in (0, 1):
        ask("POST", f"credentials/data/{made}", {"data": {"ciphertext": f"c{cas}"}, "options": {"cas": cas}})
    assert ask("GET", f"credentials/data/{made}?version=1").json()["data"]["data"] == {"ciphertext": "c0"}
    ask("POST", f"credentials/metadata/{made}", {"custom_metadata": {"credential_type": "alpaca"}})
    assert ask("GET", f"credentials/metadata/{made}").json()["data"]["current_version"] == 2
    account, credential = made.split("/")
    assert f"{account}/" in ask("LIST", "credentials/metadata").json()["data"]["keys"]
    assert ask("LIST", f"credentials/metadata/{account}").json()["data"]["keys"] == [credential]
    ask("PUT", f"credentials/destroy/{made}", {"versions": [1]})
    ask("DELETE", f"credentials/metadata/{made}")
    assert stack.vault("GET", f"credentials/data/{made}").status_code == httpx.codes.NOT_FOUND


def test_the_runtime_reads_the_installation_id_and_cannot_change_it(stack: Stack, token: str) -> None:
    read = stack.vault("GET", "credentials/data/installation", token=token).json()["data"]["data"]
    assert read == {"id": str(stack.installation_id)}
    for method, where in (
        ("POST", "credentials/data/installation"),
        ("DELETE", "credentials/data/installation"),
        ("POST", "credentials/metadata/installation"),
        ("DELETE", "credentials/metadata/installation"),
        ("PUT", "credentials/destroy/installation"),
    ):
        body = {"data": {"id": str(uuid4())}, "options": {"cas": 1}, "versions": [1]} if method != "DELETE" else None
        assert stack.vault(method, where, body, token=token).status_code == httpx.codes.FORBIDDEN, (method, where)


def test_the_runtime_renews_and_revokes_its_own_token(stack: Stack) -> None:
    own = stack.runtime_token()
    assert stack.vault("POST", "auth/token/renew-self", {}, token=own).is_success
    assert stack.vault("POST", "auth/token/revoke-self", token=own).is_success
    assert stack.vault("GET", "auth/token/lookup-self", token=own).status_code == httpx.codes.FORBIDDEN


REFUSED: list[tuple[str, str, Any]] = [
    # making, changing and taking out keys
    ("POST", "transit/encrypt/credentials-unheard-of", SEALED),  # would make the key
    ("POST", "transit/keys/credentials-more", {"type": "aes256-gcm96"}),
    ("DELETE", f"transit/keys/{ALPACA}", None),
    ("POST", f"transit/keys/{ALPACA}/rotate", {}),
    ("POST", f"transit/keys/{ALPACA}/config", {"min_decryption_version": 1}),
    ("POST", f"transit/keys/{ALPACA}/config", {"exportable": True}),
    ("POST", f"transit/keys/{ALPACA}/trim", {"min_available_version": 1}),
    ("GET", f"transit/export/encryption-key/{ALPACA}", None),
    ("GET", f"transit/backup/{ALPACA}", None),
    ("POST", f"transit/restore/{ALPACA}", {"backup": "x"}),
    ("POST", "transit/keys/credentials-more/import", {"ciphertext": "x"}),
    ("GET", f"transit/byok-export/{ALPACA}/{POLYGON}", None),
    ("LIST", "transit/keys", None),
    # other uses of the keys
    ("POST", f"transit/rewrap/{ALPACA}", {"ciphertext": "vault:v1:x", "context": CONTEXT}),
    ("POST", f"transit/datakey/plaintext/{ALPACA}", {"context": CONTEXT}),
    ("POST", f"transit/hmac/{ALPACA}", {"input": PLAINTEXT}),
    ("POST", f"transit/sign/{IDEMPOTENCY}", {"input": PLAINTEXT}),
    ("POST", f"transit/encrypt/{IDEMPOTENCY}", {"plaintext": PLAINTEXT}),
    ("POST", f"transit/decrypt/{IDEMPOTENCY}", {"ciphertext": "vault:v1:x"}),
    ("POST", f"transit/encrypt/{ALPACA}", {**SEALED, "associated_data": PLAINTEXT}),
    ("POST", f"transit/encrypt/{ALPACA}", {**SEALED, "key_version": 1}),
    ("POST", f"transit/encrypt/{ALPACA}", {**SEALED, "type": "rsa-4096"}),
    ("GET", "transit/cache-config", None),
    ("POST", "transit/config/keys", {"disable_upsert": False}),
    ("GET", "transit/wrapping_key", None),
    # KV beyond ciphertext at <account>/<credential>
    ("POST", "credentials/config", {"max_versions": 1}),
    ("GET", "credentials/config", None),
    ("POST", "credentials/data/one-segment", {"data": {"a": "b"}, "options": {"cas": 0}}),
    ("POST", "credentials/data/a/b/c", {"data": {"a": "b"}, "options": {"cas": 0}}),
    ("DELETE", "credentials/data/{path}", None),
    ("POST", "credentials/delete/{path}", {"versions": [1]}),
    ("POST", "credentials/undelete/{path}", {"versions": [1]}),
    ("POST", "credentials/metadata/{path}", {"max_versions": 1}),
    ("POST", "credentials/metadata/{path}", {"cas_required": False}),
    ("POST", "credentials/metadata/{path}", {"delete_version_after": "1s"}),
    ("GET", "credentials/subkeys/{path}", None),
    # Vault itself
    ("GET", "sys/policies/acl/credentials-runtime", None),
    ("PUT", "sys/policies/acl/credentials-runtime", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
    ("GET", "sys/auth", None),
    ("POST", "sys/auth/more", {"type": "userpass"}),
    ("GET", "sys/mounts", None),
    ("POST", "sys/mounts/more", {"type": "kv"}),
    ("DELETE", "sys/mounts/credentials", None),
    ("POST", "sys/remount", {"from": "credentials", "to": "elsewhere"}),
    ("GET", "sys/audit", None),
    ("POST", "sys/audit/more", {"type": "file", "options": {"file_path": "/dev/null"}}),
    ("DELETE", "sys/audit/file", None),
    ("DELETE", "sys/config/auditing/request-headers/X-Credentials-Batch-Id", None),
    ("DELETE", "sys/config/auditing/request-headers/X-Request-Id", None),
    ("DELETE", "sys/config/auditing/request-headers/Traceparent", None),
    ("GET", "sys/raw/core/keyring", None),
    ("PUT", "sys/seal", None),
    ("PUT", "sys/step-down", None),
    ("PUT", "sys/rotate", None),
    ("GET", "sys/storage/raft/snapshot", None),
    ("GET", "sys/storage/raft/configuration", None),
    ("GET", "sys/config/state/sanitized", None),
    ("LIST", "sys/leases/lookup/auth", None),
    # more power, or somebody else's
    ("POST", "auth/token/create", {"policies": ["root"]}),
    ("POST", "auth/token/create", {}),
    ("POST", "auth/token/create-orphan", {}),
    ("POST", "auth/token/create/vault-credentials-subject", {}),
    ("LIST", "auth/token/accessors", None),
    ("POST", "auth/token/revoke-accessor", {"accessor": "x"}),
    ("POST", "auth/approle/role/credentials-runtime", {"token_policies": ["root"]}),
    ("POST", "auth/approle/role/credentials-runtime/secret-id", {}),
    ("GET", "auth/approle/role/credentials-runtime/role-id", None),
    ("LIST", "auth/approle/role", None),
    ("POST", "identity/entity", {"name": "x"}),
    ("GET", "identity/oidc/token/vault-credentials-operator", None),
    ("POST", "identity/oidc/config", {"issuer": "http://127.0.0.1:1"}),
    ("GET", "cubbyhole/x", None),
]


@pytest.mark.parametrize(
    ("method", "where", "body"), REFUSED, ids=[f"{m}-{w}-{','.join(b or ())}" for m, w, b in REFUSED]
)
def test_the_runtime_is_refused(stack: Stack, token: str, path: str, method: str, where: str, body: Any) -> None:
    answer = stack.vault(method, where.format(path=path), body, token=token)
    assert answer.status_code == httpx.codes.FORBIDDEN


def test_what_the_runtime_is_refused_is_there_to_be_refused(stack: Stack, path: str) -> None:
    """The table above would also be green on a Vault where nothing exists. Root is answered, so the policy refuses."""
    for method, where, body in REFUSED:
        if method in ("GET", "LIST") and "raw" not in where and "export" not in where and "backup" not in where:
            status = stack.vault(method, where.format(path=path), body).status_code
            assert status != httpx.codes.FORBIDDEN, (method, where)


OPERATOR_REFUSED: list[tuple[str, str, Any]] = [
    # opening credentials, or taking the keys out
    ("POST", f"transit/decrypt/{ALPACA}", {"ciphertext": "vault:v1:x", "context": CONTEXT}),
    ("POST", f"transit/encrypt/{ALPACA}", SEALED),
    ("POST", f"transit/rewrap/{ALPACA}", {"ciphertext": "vault:v1:x", "context": CONTEXT}),
    ("POST", f"transit/datakey/plaintext/{ALPACA}", {"context": CONTEXT}),
    ("GET", f"transit/export/encryption-key/{ALPACA}", None),
    ("GET", f"transit/backup/{ALPACA}", None),
    ("POST", f"transit/keys/{ALPACA}/config", {"exportable": True}),
    ("POST", f"transit/keys/{ALPACA}/config", {"allow_plaintext_backup": True}),
    ("POST", f"transit/keys/{ALPACA}/config", {"deletion_allowed": True}),
    ("POST", "transit/keys/somebody-elses/rotate", {}),
    ("POST", "transit/keys/somebody-elses/config", {"min_decryption_version": 1}),
    # becoming the service, or somebody else
    ("POST", "auth/approle/role/credentials-runtime", {"token_policies": ["root"]}),
    ("POST", "auth/approle/role/credentials-runtime/secret-id", {}),
    ("POST", "auth/approle/role/credentials-runtime/custom-secret-id", {"secret_id": "x"}),
    ("LIST", "auth/approle/role/credentials-runtime/secret-id", None),
    ("POST", "auth/approle/role/credentials-runtime/token-policies", {"token_policies": ["root"]}),
    ("GET", "auth/approle/role/credentials-runtime/role-id", None),
    ("POST", "auth/token/create", {}),
    ("POST", "auth/token/create", {"policies": ["credentials-runtime"]}),
    ("POST", "auth/token/create-orphan", {}),
    ("POST", "auth/token/create/vault-credentials-subject", {"entity_alias": "vault-credentials-x"}),
    ("POST", "identity/entity", {"name": "x", "policies": ["root"]}),
    ("POST", "identity/entity/name/x", {"policies": ["root"]}),
    ("POST", "identity/entity/name/vault-credentials-x", {"policies": ["credentials-runtime"]}),
    ("POST", "identity/entity/name/vault-credentials-x", {"metadata": {"user": "x"}}),
    ("POST", "identity/entity/id/x", {"policies": ["root"]}),
    ("POST", "identity/entity/merge", {"from_entity_ids": ["x"], "to_entity_id": "y"}),
    ("POST", "identity/entity-alias", {"name": "vault-credentials-x", "canonical_id": "x", "mount_accessor": "x"}),
    ("POST", "identity/entity-alias/id/x", {"canonical_id": "x"}),
    ("POST", "identity/group", {"name": "x", "policies": ["root"]}),
    ("GET", "identity/oidc/token/vault-credentials-operator", None),
    ("POST", "identity/oidc/role/vault-credentials-operator", {"template": "{{}}"}),
    # more rights
    ("PUT", "sys/policies/acl/credentials-runtime", {"policy": ""}),
    ("PUT", "sys/policies/acl/local-operator", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
    ("POST", "sys/auth/more", {"type": "userpass"}),
    ("POST", "sys/mounts/more", {"type": "kv"}),
    ("DELETE", "sys/audit/file", None),
    ("GET", "sys/raw/core/keyring", None),
]


@pytest.mark.parametrize(
    ("method", "where", "body"), OPERATOR_REFUSED, ids=[f"{m}-{w}-{','.join(b or ())}" for m, w, b in OPERATOR_REFUSED]
)
def test_the_operator_token_of_the_local_stack_is_refused(stack: Stack, method: str, where: str, body: Any) -> None:
    answer = stack.vault(method, where, body, token=stack.operator_token)
    assert answer.status_code == httpx.codes.FORBIDDEN


def test_the_operator_token_looks_around_and_rotates(stack: Stack) -> None:
    for method, where, body in (
        ("GET", f"transit/keys/{ALPACA}", None),
        ("POST", f"transit/keys/{POLYGON}/config", {"min_encryption_version": 0}),
        ("GET", "auth/approle/role/credentials-runtime", None),
        ("LIST", "credentials/metadata", None),
        ("GET", "sys/policies/acl/credentials-runtime", None),
    ):
        assert stack.vault(method, where, body, token=stack.operator_token).is_success, (method, where)
    able = stack.vault(
        "POST",
        "sys/capabilities-self",
        {"paths": [f"transit/keys/{ALPACA}/rotate", "sys/seal"]},
        token=stack.operator_token,
    ).json()
    assert able[f"transit/keys/{ALPACA}/rotate"] == ["update"]
    assert able["sys/seal"] == ["sudo", "update"]


MINTING_REFUSED: list[tuple[str, str, Any]] = [
    ("POST", "identity/entity/name/vault-credentials-x", {"policies": ["credentials-runtime"]}),
    ("POST", "identity/entity/name/vault-credentials-x", {"metadata": {"user": "x"}, "policies": ["root"]}),
    ("POST", "identity/entity/name/x", {"metadata": {"user": "x"}}),
    ("POST", "identity/entity", {"name": "vault-credentials-x", "policies": ["root"]}),
    ("POST", "identity/entity/id/x", {"metadata": {}}),
    ("POST", "identity/entity-alias", {"name": "x", "canonical_id": "x", "mount_accessor": "{accessor}"}),
    ("POST", "identity/entity-alias", {"name": "vault-credentials-x", "canonical_id": "x", "mount_accessor": "other"}),
    ("POST", "identity/entity-alias", {"id": "x", "name": "vault-credentials-x", "canonical_id": "x"}),
    ("POST", "auth/token/create", {}),
    ("POST", "auth/token/create/vault-credentials-subject", {"entity_alias": "x"}),
    ("POST", "auth/token/create/vault-credentials-auditor", {"policies": ["credentials-runtime"]}),
    ("POST", "auth/token/create/vault-credentials-auditor", {"ttl": "9h"}),
    ("POST", "auth/token/create/vault-credentials-operator", {"entity_alias": "vault-credentials-x"}),
    ("POST", "auth/token/create/vault-credentials-operator", {"no_parent": True, "period": "1h"}),
    ("POST", "auth/token/roles/vault-credentials-auditor", {"allowed_policies": ["root"]}),
    ("GET", "auth/token/roles/vault-credentials-auditor", None),
    ("POST", "auth/approle/role/credentials-runtime/secret-id", {}),
    ("POST", f"transit/decrypt/{ALPACA}", {"ciphertext": "vault:v1:x", "context": CONTEXT}),
    ("LIST", "credentials/metadata", None),
    ("PUT", "sys/policies/acl/local-minting", {"policy": ""}),
]


@pytest.mark.parametrize(
    ("method", "where", "body"), MINTING_REFUSED, ids=[f"{m}-{w}-{','.join(b or ())}" for m, w, b in MINTING_REFUSED]
)
def test_the_minting_token_is_refused(stack: Stack, method: str, where: str, body: Any) -> None:
    accessor = stack.vault("GET", "sys/auth").json()["data"]["token/"]["accessor"]
    if body and "mount_accessor" in body:
        body = {**body, "mount_accessor": body["mount_accessor"].format(accessor=accessor)}
    answer = stack.vault(method, where, body, token=stack.minting_token)
    assert answer.status_code == httpx.codes.FORBIDDEN


def test_the_minting_token_mints_for_each_role_and_makes_no_other_login(stack: Stack) -> None:
    with stack.local.vault.admin() as admin, admin.with_token(stack.minting_token) as minting:
        for role in identity_tokens.ROLES:
            assert identity_tokens.mint(minting, role, f"minted {uuid4()}").count(".") == 2
        for policy in ("root", "credentials-runtime", "local-operator"):
            asked = {"entity_alias": "vault-credentials-x", "policies": [policy]}
            assert not minting.raw("POST", "auth/token/create/vault-credentials-subject", asked).is_success


def test_a_subjects_login_can_do_nothing_but_ask_for_its_token(stack: Stack) -> None:
    names = [each for each in stack.vault("LIST", "sys/policies/acl").json()["data"]["keys"] if "-mint-" in each]
    assert len(names) == 4
    for name in names:
        rules = stack.vault("GET", f"sys/policies/acl/{name}").json()["data"]["policy"]
        role = name.rpartition("-")[2]
        assert re.findall(r'path "([^"]+)"', rules) == [f"identity/oidc/token/vault-credentials-{role}"]
        assert re.findall(r"capabilities = (.+)", rules) == ['["read"]']
