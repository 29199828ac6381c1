"""What `terraform` itself can tell without the Vault provider and without a network."""

import json
from pathlib import Path

import pytest

from service.localstack.policies import VaultNames, role_policies
from service.localstack.provisioning import CREDENTIAL_TYPES
from tests.terraform.cli import POLICIES, Terraform, copy_of_policies

OTHERS = VaultNames(
    transit="team/keys",
    kv="team/kv",
    approle="machines",
    key_prefix="prod.",
    role="prod-service",
    rotator="credentials-operator",
    operator="credentials-rotator",
    auditor="prod-auditor",
)
"""Names that a rule applied twice would confuse."""


def test_the_module_is_formatted(program: str) -> None:
    Terraform(program, POLICIES / "terraform")("fmt", "-check", "-recursive", "-diff")


def test_the_description_passes_its_own_tests(program: str, tmp_path: Path) -> None:
    terraform = Terraform(program, copy_of_policies(tmp_path) / "terraform" / "modules" / "description")
    terraform("init", "-no-color")
    assert ", 0 failed." in terraform("test", "-no-color")


@pytest.mark.parametrize(
    ("names", "extra"),
    [
        (VaultNames(), []),
        (OTHERS, ["a-third", "poly"]),  # one of them begins as a type does that is there
        (VaultNames(transit="credentials", kv="transit"), []),
    ],
)
def test_policies_are_fitted_to_names_as_the_local_stack_fits_them(
    program: str, tmp_path: Path, names: VaultNames, extra: list[str]
) -> None:
    terraform = Terraform(program, copy_of_policies(tmp_path) / "terraform" / "modules" / "description")
    terraform("init", "-no-color")
    roles = {"runtime": names.role, "rotator": names.rotator, "operator": names.operator, "auditor": names.auditor}
    terraform(
        "apply",
        "-auto-approve",
        "-no-color",
        f"-var=transit_mount={names.transit}",
        f"-var=kv_mount={names.kv}",
        f"-var=key_prefix={names.key_prefix}",
        "-var=role_names={" + ",".join(f'{role}="{name}"' for role, name in roles.items()) + "}",
        f"-var=extra_credential_types={json.dumps(extra)}",
    )
    fitted = {roles[role]: rules for role, rules in terraform.output("policies").items()}
    assert fitted == role_policies(names, (*CREDENTIAL_TYPES, *extra))
    assert set(terraform.output("credential_types")) == {*CREDENTIAL_TYPES, *extra}
