"""The module applied to a real Vault: what it makes works, drift is found and healed, and keys outlive everything.

One Vault and one state for the whole module, so the tests run in the order they are written in; each leaves a clean
plan behind, but for the last two: one does what cannot be undone, the other takes the module away.
"""

import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.composition import Runtime
from service.localstack.policies import VaultNames, role_policies
from service.localstack.provisioning import CREDENTIAL_TYPES
from service.localstack.vault_server import RunningVault
from service.postgres.migrate import installation_id, migrate
from service.settings import load_settings
from tests.databases import in_database, own_database
from tests.stored import opened, store
from tests.support import Stack
from tests.terraform.cli import Terraform, copy_of_policies

NAMES = VaultNames()
ALPACA = "transit/keys/credentials-alpaca"
CONTEXT = base64.b64encode(b"c" * 32).decode()
MODULE = "module.credentials"
NOTHING = 'path "nowhere" {\n  capabilities = ["deny"]\n}\n'


class Provisioned:
    """A Vault that the example was applied to."""

    def __init__(self, vault: RunningVault, terraform: Terraform, database: str, installation: UUID) -> None:
        self.vault = vault
        self.terraform = terraform
        self.database_url = database
        self.installation_id = installation

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> httpx.Response:
        """One request as root, or with another token."""
        with self.vault.admin() as admin:
            if token is None:
                return admin.raw(method, path, body)
            with admin.with_token(token) as other:
                return other.raw(method, path, body)

    def read(self, path: str) -> dict[str, Any]:
        answer = self.ask("GET", path)
        assert answer.is_success, f"{answer.status_code} to GET {path}"
        return dict(answer.json()["data"])

    def write(self, path: str, **body: Any) -> None:
        assert self.ask("POST", path, body).is_success, path

    def secret_id(self, role: str) -> str:
        return str(self.ask("POST", f"auth/approle/role/{role}/secret-id", {}).json()["data"]["secret_id"])

    def login(self, role: str) -> str:
        """A token of the runtime or the rotator, through the role id that Terraform put out."""
        names = {"runtime": "CREDENTIALS_VAULT_ROLE_ID", "rotator": "CREDENTIALS_ROTATOR_VAULT_ROLE_ID"}
        role_id = self.terraform.output("environment")["approle"][role][names[role]]
        body = {"role_id": role_id, "secret_id": self.secret_id(f"credentials-{role}")}
        return str(self.ask("POST", "auth/approle/login", body).json()["auth"]["client_token"])


@pytest.fixture(scope="module")
async def applied(
    terraform_at: Callable[[Path, RunningVault], Terraform],
    fresh_vault: Callable[[], RunningVault],
    stack: Stack,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Provisioned]:
    """The example, applied with the rights of provisioner.hcl and no others."""
    vault = fresh_vault()
    policies = copy_of_policies(tmp_path_factory.mktemp("terraform"))
    with vault.admin() as admin:
        rules = (policies / "terraform" / "provisioner.hcl").read_text(encoding="utf-8")
        admin.call("PUT", "sys/policies/acl/provisioner", {"policy": rules})
        body = {"policies": ["provisioner"], "no_default_policy": True, "ttl": "1h"}
        token = str(admin.call("POST", "auth/token/create-orphan", body)["auth"]["client_token"])
    async with own_database(stack) as name:
        owner_url = in_database(stack.owner_url, name)
        await migrate(owner_url, transit_keys=[NAMES.type_key(each) for each in CREDENTIAL_TYPES])
        installation = await installation_id(owner_url)
        folder = policies / "terraform" / "examples" / "complete"
        given = {"installation_id": str(installation), "vault_url": vault.address, "audit_log": vault.audit_path}
        (folder / "terraform.tfvars.json").write_text(json.dumps(given))
        as_root = terraform_at(folder, vault)
        terraform = as_root.with_environment(VAULT_TOKEN=token)
        terraform("apply", "-auto-approve", "-no-color")
        yield Provisioned(vault, terraform, in_database(stack.runtime_url, name), installation)


def test_a_plan_after_the_apply_is_clean(applied: Provisioned) -> None:
    assert applied.terraform.changes() == {}


def test_every_policy_is_as_its_file_says(applied: Provisioned) -> None:
    for name, rules in role_policies(NAMES).items():
        assert applied.read(f"sys/policies/acl/{name}")["policy"] == rules


def test_no_secret_is_in_the_state(applied: Provisioned) -> None:
    state = (applied.terraform.folder / "terraform.tfstate").read_text()
    assert applied.vault.token not in state
    assert "hvs." not in state
    assert '"secret_id"' not in state


DRIFT: list[tuple[str, dict[str, Any], str]] = [
    ("sys/policies/acl/credentials-rotator", {"policy": NOTHING}, 'vault_policy.role["rotator"]'),
    (
        "auth/approle/role/credentials-runtime",
        {"token_ttl": "720h", "token_max_ttl": "720h"},
        'vault_approle_auth_backend_role.this["runtime"]',
    ),
    (
        "auth/approle/role/credentials-rotator",
        {"token_policies": ["credentials-rotator", "credentials-runtime"]},
        'vault_approle_auth_backend_role.this["rotator"]',
    ),
    ("credentials/config", {"cas_required": False, "max_versions": 3}, "vault_kv_secret_backend_v2.kv"),
    (
        "sys/config/auditing/request-headers/X-Credentials-Batch-Id",
        {"hmac": True},
        'vault_audit_request_header.this["batch_id"]',
    ),
    (
        "identity/oidc/role/vault-credentials-user",
        {
            "key": "vault-credentials",
            "client_id": "vault-credentials",
            "ttl": "1h",
            "template": '{"user": {{identity.entity.metadata.user}}, "roles": ["operator"]}',
        },
        'vault_identity_oidc_role.caller["user"]',
    ),
]
"""What somebody changed: where, to what, and the resource that it is for Terraform."""


def test_drift_is_found_by_a_plan_and_healed_by_an_apply(applied: Provisioned) -> None:
    before = {path: applied.read(path) for path, _, _ in DRIFT}
    for path, drift, _ in DRIFT:
        applied.write(path, **drift)
        assert applied.read(path) != before[path]
    assert applied.terraform.changes() == {f"{MODULE}.{address}": ["update"] for _, _, address in DRIFT}
    applied.terraform("apply", "-auto-approve", "-no-color")
    assert {path: applied.read(path) for path in before} == before
    assert applied.terraform.changes() == {}


def test_what_was_deleted_by_hand_is_made_again(applied: Provisioned) -> None:
    assert applied.ask("DELETE", "sys/policies/acl/credentials-auditor").is_success
    assert list(applied.terraform.changes()) == [f'{MODULE}.vault_policy.role["auditor"]']
    applied.terraform("apply", "-auto-approve", "-no-color")
    assert applied.read("sys/policies/acl/credentials-auditor")["policy"] == role_policies(NAMES)[NAMES.auditor]
    assert applied.terraform.changes() == {}


def test_the_runtime_logs_in_and_encrypts_and_the_rotator_may_not_decrypt(applied: Provisioned) -> None:
    runtime, rotator = applied.login("runtime"), applied.login("rotator")
    body = {"plaintext": base64.b64encode(b"plaintext").decode(), "context": CONTEXT}
    sealed = applied.ask("POST", "transit/encrypt/credentials-alpaca", body, token=runtime)
    item = {"ciphertext": sealed.json()["data"]["ciphertext"], "context": CONTEXT}
    assert applied.ask("POST", "transit/rewrap/credentials-alpaca", item, token=rotator).is_success
    assert applied.ask("POST", "transit/decrypt/credentials-alpaca", item, token=runtime).is_success
    refused = applied.ask("POST", "transit/decrypt/credentials-alpaca", item, token=rotator)
    assert refused.status_code == httpx.codes.FORBIDDEN


async def test_the_service_runs_on_what_terraform_made(applied: Provisioned, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        **applied.terraform.output("environment")["approle"]["runtime"],
        "VAULT_ADDR": applied.vault.address,
        "DATABASE_URL": applied.database_url,
        "CREDENTIALS_VAULT_SECRET_ID": applied.secret_id("credentials-runtime"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with Runtime.open(load_settings()) as runtime:
        stored = await store(runtime)
        assert await opened(runtime, stored.id, stored.user_id) == stored.keys


async def test_a_plan_is_clean_after_the_service_retired_a_version_and_an_apply_does_not_lower_it(
    applied: Provisioned,
) -> None:
    rotator = applied.login("rotator")
    for _ in range(2):
        assert applied.ask("POST", f"{ALPACA}/rotate", token=rotator).is_success
    # A plan made before the version is retired, and applied after it, while there would be something to set on the key.
    applied.write("sys/policies/acl/credentials-auditor", policy=NOTHING)
    applied.write(f"{ALPACA}/config", auto_rotate_period="48h")
    plan = str(applied.terraform.folder / "before.tfplan")
    applied.terraform("plan", f"-out={plan}", "-no-color")
    retired = applied.ask("POST", f"{ALPACA}/config", {"min_decryption_version": 3}, token=rotator)
    assert retired.is_success
    applied.terraform("apply", "-no-color", plan)
    assert applied.read(ALPACA)["min_decryption_version"] == 3
    assert applied.terraform.changes() == {}


def test_another_rotation_period_neither_touches_a_key_nor_passes_unsaid(applied: Provisioned) -> None:
    before = applied.read(ALPACA)
    # What an operator may set by operator.hcl.
    applied.write(f"{ALPACA}/config", auto_rotate_period="72h", min_encryption_version=3)
    assert applied.terraform.changes() == {}
    said = applied.terraform("apply", "-auto-approve", "-no-color")
    assert "another auto_rotate_period" in " ".join(said.split())
    after = applied.read(ALPACA)
    assert after == {**before, "auto_rotate_period": after["auto_rotate_period"], "min_encryption_version": 3}
    assert after["auto_rotate_period"] != before["auto_rotate_period"]


def test_a_key_that_may_be_deleted_fails_every_plan(applied: Provisioned) -> None:
    applied.write(f"{ALPACA}/config", deletion_allowed=True)
    try:
        assert "Transit key credentials-alpaca may be deleted" in applied.terraform.refusal("plan")
    finally:
        applied.write(f"{ALPACA}/config", deletion_allowed=False)
    assert applied.terraform.changes() == {}


def test_a_vault_of_another_database_is_refused(applied: Provisioned) -> None:
    other = "-var=installation_id=00000000-0000-0000-0000-000000000000"
    assert "belongs to another database" in applied.terraform.refusal("plan", other)
    record = {"data": {"id": "00000000-0000-0000-0000-000000000000"}, "options": {"cas": 1}}
    applied.write("credentials/data/installation", **record)
    try:
        assert "belongs to another database" in applied.terraform.refusal("plan")
    finally:
        back = {"data": {"id": str(applied.installation_id)}, "options": {"cas": 2}}
        applied.write("credentials/data/installation", **back)
    assert applied.terraform.changes() == {}


def test_destroy_is_refused_for_keys(applied: Provisioned) -> None:
    # Of the mounts nothing is said: Terraform looks at the keys, which depend on them, first.
    said = applied.terraform.refusal("destroy", "-auto-approve")
    for name in (*CREDENTIAL_TYPES, "idempotency", "events"):
        key = f'{MODULE}.vault_transit_secret_backend_key.this["{name}"]'
        assert f"{key} has lifecycle.prevent_destroy set" in said, name
    assert applied.terraform.changes() == {}


def test_a_key_that_can_be_exported_fails_every_plan_for_good(applied: Provisioned) -> None:
    applied.write("transit/keys/credentials-events/config", exportable=True)
    assert "Transit key credentials-events can be exported" in applied.terraform.refusal("plan")


def test_keys_and_ciphertext_survive_even_the_removal_of_the_module(applied: Provisioned) -> None:
    kept = {path: applied.read(path) for path in (ALPACA, "credentials/config", "credentials/data/installation")}
    # As root: what is shown is that Vault and the order of destruction protect them, not the lack of a right.
    everything = applied.terraform.with_environment(VAULT_TOKEN=applied.vault.token)
    main = everything.folder / "main.tf"
    main.write_text(
        'terraform {\n  required_providers {\n    vault = {\n      source = "hashicorp/vault"\n    }\n  }\n}\n'
    )
    said = everything.refusal("apply", "-auto-approve")
    assert "deletion is not allowed" in said
    assert {path: applied.read(path) for path in kept} == kept
    # That it was tried: what can be made again is gone.
    assert applied.ask("GET", "sys/policies/acl/credentials-runtime").status_code == httpx.codes.NOT_FOUND
