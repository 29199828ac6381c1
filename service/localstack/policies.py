"""The policy files and `provisioning.json`, and how policies are fitted to mounts under other names.

The Terraform module in `vault-policies/terraform` reads the same files.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError

_HERE = Path(__file__).parent
_SEAL_RULE = 'path "sys/seal" {\n  capabilities = ["update", "sudo"]\n}\n'
_PATH_LINE = re.compile(r'^path "([^"]+)"', re.MULTILINE)
_COMMENT = re.compile("^#.*\n", re.MULTILINE)
_PATTERN_KEY = "/credentials-alpaca"
"""The key whose rules those of a type that the policy files don't name are made after."""


@dataclass(frozen=True)
class VaultNames:
    """What things are called in a Vault. The defaults are those of the policy files."""

    transit: str = "transit"
    kv: str = "credentials"
    approle: str = "approle"
    key_prefix: str = "credentials-"
    role: str = "credentials-runtime"
    rotator: str = "credentials-rotator"
    operator: str = "credentials-operator"
    auditor: str = "credentials-auditor"
    """Each role's policy; of `role` and `rotator` also the AppRole role."""

    @property
    def idempotency_key(self) -> str:
        """The transit key that compares request bodies."""
        return f"{self.key_prefix}idempotency"

    @property
    def events_key(self) -> str:
        """The transit key that signs the seals over the events."""
        return f"{self.key_prefix}events"

    def type_key(self, credential_type: str) -> str:
        """The transit key of a credential type."""
        return f"{self.key_prefix}{credential_type}"


def policy_file(name: str) -> Path:
    """`vault-policies/<name>.hcl`: in the checkout, or inside an installed package.

    Raises:
        ConfigurationError: neither is there.
    """
    return _installed(f"{name}.hcl")


@cache
def described() -> dict[str, Any]:
    """`vault-policies/provisioning.json`: the settings of what is made in a Vault, times in seconds. Not to be changed.

    Raises:
        ConfigurationError: it is missing from this installation.
    """
    return dict(json.loads(_installed("provisioning.json").read_text(encoding="utf-8")))


def fitted(policy: str, names: VaultNames) -> str:
    """The policy's text for these names. Only `path` lines change: mounts, key prefix, AppRole roles and policies.

    Raises:
        ConfigurationError: a name holds a character that means something in a policy's path.
    """
    roles = {
        "credentials-runtime": names.role,
        "credentials-rotator": names.rotator,
        "credentials-operator": names.operator,
        "credentials-auditor": names.auditor,
    }
    for name in (names.transit, names.kv, names.approle, names.key_prefix, *roles.values()):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name):
            raise ConfigurationError("a mount's or key's name may hold letters, digits, `_`, `.`, `-` and `/` alone")

    def rename(line: re.Match[str]) -> str:
        first, _, rest = line[1].partition("/")
        if first == "transit":
            return f'path "{names.transit}/{rest.replace("/credentials-", f"/{names.key_prefix}")}"'
        if first == "credentials":
            return f'path "{names.kv}/{rest}"'
        rest = re.sub(r"(?<=/)credentials-\w+", lambda role: roles.get(role[0], role[0]), line[1])
        return f'path "{re.sub("^auth/approle/", f"auth/{names.approle}/", rest)}"'

    return _PATH_LINE.sub(rename, policy)


def with_types(policy: str, types: Iterable[str]) -> str:
    """The policy's text with rules about these types' keys: those of a type that it doesn't name are Alpaca's.

    Each still names its key in full. `modules/description` of the Terraform module does the same.
    """
    missing = [each for each in types if not re.search(rf'/credentials-{re.escape(each)}["/]', policy)]
    rules = []
    for rule in policy.split("\n\n"):
        bare = _COMMENT.sub("", rule)
        rules += [
            rule,
            *(bare.replace(_PATTERN_KEY, f"/credentials-{each}") for each in missing if _PATTERN_KEY in bare),
        ]
    return "\n\n".join(rules)


def role_policies(names: VaultNames, types: Sequence[str] | None = None) -> dict[str, str]:
    """Every production role's policy, by the name it has in Vault. `types`: by default those of `described`.

    Raises as `policy_file` and `fitted`.
    """
    files = {names.role: "runtime", names.rotator: "rotator", names.operator: "operator", names.auditor: "auditor"}
    types = described()["credential_types"] if types is None else types
    return {
        name: fitted(with_types(policy_file(file).read_text(encoding="utf-8"), types), names)
        for name, file in files.items()
    }


def _installed(name: str) -> Path:
    for folder in (_HERE / "vault-policies", _HERE.parents[1] / "vault-policies"):
        file = folder / name
        if file.is_file():
            return file
    raise ConfigurationError(f"vault-policies/{name} is missing from this installation")


def local_operator_policy(names: VaultNames, types: Sequence[str], *, may_seal: bool) -> str:
    """The policy of the local stack's operator token. It is no production role's.

    `may_seal` is for a Vault that is nobody else's: it is unsealed at the next start.
    """
    policy = fitted(with_types((_HERE / "local-operator.hcl").read_text(encoding="utf-8"), types), names)
    return policy + _SEAL_RULE if may_seal else policy


def local_minting_policy(token_accessor: str) -> str:
    """The policy of the token that `vault-credentials token` mints with.

    `token_accessor` is the accessor of this Vault's token login (`token/` in `sys/auth`).
    """
    return (_HERE / "local-minting.hcl").read_text(encoding="utf-8").replace("TOKEN_ACCESSOR", token_accessor)
