"""The policy files as they are written: the README's table says what is in them, and they say nothing too much."""

import re
from pathlib import Path

import pytest

from service.localstack.policies import VaultNames, role_policies
from service.localstack.provisioning import CREDENTIAL_TYPES
from tests.security import policy_files
from tests.security.policy_files import FOLDER, LOCAL, Rule, rules

ROLES = policy_files.roles()
FILES = [*sorted(FOLDER.glob("*.hcl")), *sorted(LOCAL.glob("*.hcl"))]


def table() -> dict[str, set[tuple[str, frozenset[str], frozenset[str] | None]]]:
    """The README's table: for each role the paths, capabilities and parameters that it has."""
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| path | "))
    header = cells(lines[start])
    found: dict[str, set[tuple[str, frozenset[str], frozenset[str] | None]]] = {role: set() for role in header[1:-1]}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        path, *columns, parameters = cells(line)
        listed = frozenset(re.findall(r"`([^`]+)`", parameters)) if parameters else None
        for role, capabilities in zip(header[1:-1], columns, strict=True):
            if capabilities:
                for each in expanded(path.strip("`")):
                    found[role].add((each, frozenset(capabilities.split(", ")), listed))
    return found


def cells(line: str) -> list[str]:
    return [each.strip() for each in line.strip("|").split("|")]


def expanded(path: str) -> list[str]:
    return [path.replace("<type>", each) for each in CREDENTIAL_TYPES] if "<type>" in path else [path]


def test_the_readmes_table_says_exactly_what_is_in_the_files() -> None:
    written = table()
    assert sorted(written) == ROLES
    for role in ROLES:
        in_file = {(rule.path, rule.capabilities, rule.parameters) for rule in rules(FOLDER / f"{role}.hcl")}
        assert written[role] == in_file, role


def of(role: str, path: str) -> Rule:
    (rule,) = (each for each in rules(FOLDER / f"{role}.hcl") if each.path == path)
    return rule


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nobody_sets_what_lets_a_key_out_or_lets_it_be_deleted(file: Path) -> None:
    """Not even the local stack's own tokens."""
    forbidden = {"exportable", "allow_plaintext_backup", "deletion_allowed", "*"}
    for rule in rules(file):
        if rule.path.startswith("transit/keys/") and "rotate" not in rule.path and rule.capabilities != {"read"}:
            assert rule.parameters is not None, rule.path
            assert not rule.parameters & forbidden, rule.path


@pytest.mark.parametrize("role", ROLES)
def test_what_changes_something_names_a_key_in_full_and_its_parameters(role: str) -> None:
    for rule in rules(FOLDER / f"{role}.hcl"):
        changes = bool(rule.capabilities - {"read", "list"})
        if rule.path.startswith("transit/") and changes:
            assert not set("*+") & set(rule.path), rule.path
            assert rule.capabilities == {"update"}, f"{rule.path}: `create` would make a key"
        if rule.path.startswith("credentials/") and changes:
            assert rule.parameters, rule.path
            assert "*" not in rule.path
        assert not rule.capabilities & {"sudo", "patch", "subscribe", "recover"}
        assert rule.path.split("/")[0] in ("transit", "credentials", "sys", "auth"), rule.path


def test_each_role_sets_its_own_parameters_of_a_key_alone() -> None:
    for credential_type in CREDENTIAL_TYPES:
        config = f"transit/keys/credentials-{credential_type}/config"
        assert of("rotator", config).parameters == frozenset({"min_decryption_version"})
        assert of("operator", config).parameters == frozenset({"auto_rotate_period", "min_encryption_version"})
    for role in ("runtime", "rotator"):
        assert of(role, "credentials/metadata/+/+").parameters == frozenset({"custom_metadata"})


def test_the_rotator_decrypts_nothing_and_takes_nothing_away() -> None:
    for rule in rules(FOLDER / "rotator.hcl"):
        assert not re.search("decrypt|datakey|export|destroy|delete|encrypt", rule.path), rule.path
        assert "delete" not in rule.capabilities, rule.path


def test_the_auditor_changes_nothing() -> None:
    """What it posts are questions, and its own token's end."""
    own = {"sys/capabilities-self", "auth/token/renew-self", "auth/token/revoke-self"}
    assert {rule.path for rule in rules(FOLDER / "auditor.hcl") if rule.capabilities - {"read", "list"}} == own


def test_the_policies_under_other_names_name_nothing_of_the_default_ones() -> None:
    names = VaultNames(
        transit="crypto/eu",
        kv="kv-creds",
        approle="robots",
        key_prefix="vc.",
        role="svc",
        rotator="svc-rotator",
        operator="svc-operator",
        auditor="svc-auditor",
    )
    policies = role_policies(names)
    assert list(policies) == ["svc", "svc-rotator", "svc-operator", "svc-auditor"]
    paths = {name: re.findall(r'^path "([^"]+)"', policy, re.MULTILINE) for name, policy in policies.items()}
    for path in (each for listed in paths.values() for each in listed):
        assert not path.startswith(("transit/", "credentials/")), path
        assert "credentials-" not in path
    assert {"crypto/eu/encrypt/vc.alpaca", "kv-creds/data/+/+", "crypto/eu/hmac/vc.idempotency"} <= set(paths["svc"])
    assert {"crypto/eu/rewrap/vc.polygon", "crypto/eu/sign/vc.events"} <= set(paths["svc-rotator"])
    assert "sys/policies/acl/svc-rotator" in paths["svc-auditor"]
