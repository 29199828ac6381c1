"""What can be said of the Terraform module by reading it: these run wherever the tests do."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from service.correlation import REQUEST_HEADER, TRACE_HEADER
from service.localstack import identity_tokens, provisioning
from service.localstack.policies import described
from service.vault.transit import BATCH_HEADER
from tests.terraform.cli import POLICIES

MODULE = POLICIES / "terraform"
README = MODULE / "README.md"


def blocks(kind: str, files: str = "*.tf") -> dict[str, str]:
    """The module's top-level blocks of a kind, by their labels."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(MODULE.glob(files)))
    found = re.findall(rf'^{kind} ((?:"[^"]+" ?)+)\{{\n(.*?)^\}}$', text, re.MULTILINE | re.DOTALL)
    return {".".join(re.findall(r'"([^"]+)"', labels)): body for labels, body in found}


def test_the_description_and_the_code_name_the_same_things() -> None:
    # These are constants in the code, so not read from the file.
    assert tuple(described()["credential_types"]) == provisioning.CREDENTIAL_TYPES
    audited = {header["name"] for header in described()["audited_headers"].values()}
    assert audited == {BATCH_HEADER, REQUEST_HEADER, TRACE_HEADER}
    oidc = described()["oidc"]
    assert tuple(oidc["roles"]) == identity_tokens.ROLES
    assert (oidc["audience"], oidc["user_claim"]) == (identity_tokens.AUDIENCE, identity_tokens.USER_CLAIM)


def test_the_description_asks_for_nothing_that_cannot_be_taken_back() -> None:
    for name, key in described()["keys"].items():
        assert not key.keys() & {"exportable", "allow_plaintext_backup", "deletion_allowed"}, name
    assert described()["keys"]["credential_type"]["derived"] is True
    assert described()["kv"]["cas_required"] is True


@pytest.mark.parametrize(
    "resource",
    [
        "vault_mount.transit",
        "vault_mount.kv",
        "vault_kv_secret_v2.installation",
        "vault_transit_secret_backend_key.this",
    ],
)
def test_what_holds_credentials_is_not_destroyed(resource: str) -> None:
    assert re.search(r"^ {4}prevent_destroy = true\b", blocks("resource")[resource], re.MULTILINE)


def test_mounts_outlive_the_keys_that_vault_refuses_to_delete() -> None:
    assert (
        "depends_on = [vault_kv_secret_v2.installation]" in blocks("resource")["vault_transit_secret_backend_key.this"]
    )


@pytest.mark.parametrize("setting", ["min_decryption_version", "min_encryption_version", "auto_rotate_period"])
def test_what_the_service_and_operators_change_is_left_to_them(setting: str) -> None:
    key = blocks("resource")["vault_transit_secret_backend_key.this"]
    ignored = re.search(r"ignore_changes = \[(.*?)\]", key, re.DOTALL)
    assert ignored is not None
    assert re.search(rf"\b{setting}\b", ignored[1])


def test_no_secret_gets_into_the_state() -> None:
    used = set(blocks("resource")) | {f"data.{name}" for name in blocks("data")}
    kinds = {name.removeprefix("data.").partition(".")[0] for name in used}
    assert not kinds & {
        "vault_approle_auth_backend_role_secret_id",
        "vault_approle_auth_backend_login",
        "vault_token",
        "vault_transit_decrypt",
    }
    text = "".join(file.read_text(encoding="utf-8") for file in MODULE.glob("*.tf"))
    assert not re.search(r"^\s*token_reviewer_jwt\w*\s*=", text, re.MULTILINE)


@pytest.mark.parametrize("kind", ["variable", "output"])
def test_everything_that_goes_in_or_out_is_described_in_the_module_and_in_its_readme(kind: str) -> None:
    readme = README.read_text(encoding="utf-8")
    found = blocks(kind)
    assert found
    for name, body in found.items():
        assert re.search(r"^  description\s+=", body, re.MULTILINE), name
        assert f"| `{name}` |" in readme, name


def test_the_readme_names_nothing_that_is_not_there() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == set(blocks("variable")) | set(blocks("output"))


def test_the_local_stack_reads_the_files_that_the_module_reads() -> None:
    main = (MODULE / "modules" / "description" / "main.tf").read_text(encoding="utf-8")
    assert 'file("${local.folder}/provisioning.json")' in main
    assert 'file("${local.folder}/${role}.hcl")' in main
    assert (MODULE / "modules" / "description" / "../../..").resolve() == POLICIES
    assert json.loads((POLICIES / "provisioning.json").read_text(encoding="utf-8")) == described()


def test_a_package_holds_the_policies_and_the_description_and_no_state() -> None:
    # Named one by one: a folder would bring what Terraform leaves in it.
    project = tomllib.loads((POLICIES.parent / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    wanted = [file.name for file in POLICIES.iterdir() if file.suffix in (".hcl", ".json")]
    assert included == {f"vault-policies/{name}": f"service/localstack/vault-policies/{name}" for name in wanted}


def test_nothing_that_a_run_leaves_is_in_the_checkout() -> None:
    ignored = Path(POLICIES.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".terraform/", ".terraform.lock.hcl", "*.tfstate", "*.tfstate.*"} <= set(ignored)
