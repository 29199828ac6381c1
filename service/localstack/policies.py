"""The policy files, and how they are fitted to mounts under other names."""

import re
from dataclasses import dataclass
from pathlib import Path

from service.errors import ConfigurationError

_HERE = Path(__file__).parent
_SEAL_RULE = 'path "sys/seal" {\n  capabilities = ["update", "sudo"]\n}\n'
_PATH_LINE = re.compile(r'^path "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class VaultNames:
    """What things are called in a Vault. The defaults are those of the policy files."""

    transit: str = "transit"
    kv: str = "credentials"
    approle: str = "approle"
    key_prefix: str = "credentials-"
    role: str = "credentials-runtime"

    @property
    def idempotency_key(self) -> str:
        """The transit key that compares request bodies."""
        return f"{self.key_prefix}idempotency"

    def type_key(self, credential_type: str) -> str:
        """The transit key of a credential type."""
        return f"{self.key_prefix}{credential_type}"


def policy_file(name: str) -> Path:
    """`vault-policies/<name>.hcl`: in the checkout, or inside an installed package.

    Raises:
        ConfigurationError: neither is there.
    """
    for folder in (_HERE / "vault-policies", _HERE.parents[1] / "vault-policies"):
        file = folder / f"{name}.hcl"
        if file.is_file():
            return file
    raise ConfigurationError(f"vault-policies/{name}.hcl is missing from this installation")


def fitted(policy: str, names: VaultNames) -> str:
    """The policy's text for these names. Only `path` lines change: mount, AppRole mount and role, key prefix.

    Raises:
        ConfigurationError: a name holds a character that means something in a policy's path.
    """
    for name in (names.transit, names.kv, names.approle, names.key_prefix, names.role):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name):
            raise ConfigurationError("a mount's or key's name may hold letters, digits, `_`, `.`, `-` and `/` alone")

    def rename(line: re.Match[str]) -> str:
        first, _, rest = line[1].partition("/")
        if first == "transit":
            return f'path "{names.transit}/{rest.replace("/credentials-", f"/{names.key_prefix}")}"'
        if first == "credentials":
            return f'path "{names.kv}/{rest}"'
        if line[1].startswith("auth/approle/"):
            fitted_path = line[1].replace("auth/approle/", f"auth/{names.approle}/", 1)
            return f'path "{fitted_path.replace("/credentials-runtime", f"/{names.role}")}"'
        return line[0]

    return _PATH_LINE.sub(rename, policy)


def runtime_policy(names: VaultNames) -> str:
    """The service's own policy."""
    return fitted(policy_file("runtime").read_text(encoding="utf-8"), names)


def local_operator_policy(names: VaultNames, *, may_seal: bool) -> str:
    """The policy of the local stack's operator token. It is no production role's.

    `may_seal` is for a Vault that is nobody else's: it is unsealed at the next start.
    """
    policy = fitted((_HERE / "local-operator.hcl").read_text(encoding="utf-8"), names)
    return policy + _SEAL_RULE if may_seal else policy


def local_minting_policy(token_accessor: str) -> str:
    """The policy of the token that `vault-credentials token` mints with.

    `token_accessor` is the accessor of this Vault's token login (`token/` in `sys/auth`).
    """
    return (_HERE / "local-minting.hcl").read_text(encoding="utf-8").replace("TOKEN_ACCESSOR", token_accessor)
