"""The local stack's provisioning and the module make the same, seen in two Vaults that had nothing in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.localstack import identity_tokens, provisioning
from service.localstack.policies import VaultNames
from service.localstack.vault_admin import VaultAdmin
from service.localstack.vault_server import RunningVault
from tests.terraform.cli import Terraform, copy_of_policies
from tests.terraform.test_without_provider import OTHERS

_OF_THE_MOMENT = {"accessor", "uuid", "description", "running_plugin_version", "running_sha256", "keys"}
"""Made anew in each Vault, for people to read, or when a version was made."""


def plain(found: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in found.items() if name not in _OF_THE_MOMENT}
    return {**kept, "options": kept.get("options") or None}  # no options are null or {}, as they were sent


def listed(admin: VaultAdmin, path: str) -> list[str]:
    answer = admin.raw("LIST", path)
    assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, path
    return sorted(answer.json()["data"]["keys"]) if answer.is_success else []


def each(admin: VaultAdmin, path: str) -> dict[str, dict[str, Any]]:
    """Everything below a path, as it is read."""
    return {name: plain(admin.data("GET", f"{path}/{name}")) for name in listed(admin, path)}


def everything(admin: VaultAdmin, names: VaultNames) -> dict[str, Any]:
    """What a Vault has of what provisioning is about."""
    return {
        "mounts": {path: plain(mount) for path, mount in admin.data("GET", "sys/mounts").items()},
        "logins": {path: plain(login) for path, login in admin.data("GET", "sys/auth").items()},
        "kv": admin.data("GET", f"{names.kv}/config"),
        "kv records": listed(admin, f"{names.kv}/metadata/"),
        "installation": admin.data("GET", f"{names.kv}/data/installation")["data"],
        "keys": each(admin, f"{names.transit}/keys"),
        "policies": each(admin, "sys/policies/acl"),
        "approle": each(admin, f"auth/{names.approle}/role"),
        "audited headers": admin.data("GET", "sys/config/auditing/request-headers"),
        "oidc": admin.data("GET", "identity/oidc/config"),
        "oidc keys": each(admin, "identity/oidc/key"),
        "oidc roles": each(admin, "identity/oidc/role"),
    }


@pytest.mark.parametrize("names", [VaultNames(), OTHERS], ids=["default names", "other names"])
def test_both_make_the_same(
    names: VaultNames,
    terraform_at: Callable[[Path, RunningVault], Terraform],
    fresh_vault: Callable[[], RunningVault],
    tmp_path: Path,
) -> None:
    by_hand, by_terraform, installation = fresh_vault(), fresh_vault(), uuid4()
    with by_hand.admin() as admin:
        provisioning.provision(admin, installation, names)
        identity_tokens.ensure_issuer(admin, is_ours=True)
        wanted = everything(admin, names)

    given = {
        "source": str(copy_of_policies(tmp_path) / "terraform"),
        "installation_id": str(installation),
        "transit_mount": names.transit,
        "kv_mount": names.kv,
        "key_prefix": names.key_prefix,
        "role_names": {
            "runtime": names.role,
            "rotator": names.rotator,
            "operator": names.operator,
            "auditor": names.auditor,
        },
        "auto_rotate_period": 0,  # a stack on one's own machine rotates when it is told to
        "approle": {"mount": names.approle},
        "oidc": {"issuer": by_hand.address},
    }
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "main.tf.json").write_text(json.dumps({"module": {"credentials": given}}))
    terraform = terraform_at(folder, by_terraform)
    terraform("apply", "-auto-approve", "-no-color")
    with by_terraform.admin() as admin:
        made = everything(admin, names)

    for part in wanted:
        assert made[part] == wanted[part], part
    assert terraform.changes() == {}
