"""Vault tokens for trying out the Vault UI and CLI as an operator or an auditor of production would have them.

In production these people log in to Vault as the organisation's people do (OIDC, LDAP), and get the policy that way.
A token role can be asked for its own policy alone, so minting needs no right to name one.

https://developer.hashicorp.com/vault/api-docs/auth/token
"""

from service.errors import InvalidInput
from service.localstack.policies import VaultNames
from service.localstack.vault_admin import VaultAdmin
from service.names import name_problem

_TTL = "8h"


def ensure_roles(vault: VaultAdmin, names: VaultNames) -> None:
    """Sets up what `mint` asks: a token role for each of the two policies."""
    for role, policy in (("operator", names.operator), ("auditor", names.auditor)):
        vault.call(
            "POST",
            f"auth/token/roles/{_token_role(role)}",
            {
                "allowed_policies": [policy],
                "orphan": True,
                "renewable": False,
                "token_no_default_policy": True,
                "token_explicit_max_ttl": _TTL,
                "token_type": "service",
            },
        )


def mint(vault: VaultAdmin, role: str, subject: str) -> str:
    """A token with the operator's or the auditor's policy, for eight hours.

    Vault's audit log shows it by the subject, as far as that is made of letters, digits and `-`.

    Raises:
        InvalidInput: the role is neither of the two; or the subject is no name that the service takes.
        VaultDenied, VaultRefused, VaultUnavailable: from Vault.
    """
    if role not in ("operator", "auditor"):
        raise InvalidInput("role", "must be operator or auditor for a token of Vault's")
    if (problem := name_problem(subject)) is not None:
        raise InvalidInput("subject", problem)
    # The rights that this needs, and no more, are in local-minting.hcl.
    made = vault.call("POST", f"auth/token/create/{_token_role(role)}", {"display_name": f"{role}-{subject}"})
    return str(made["auth"]["client_token"])


def _token_role(role: str) -> str:
    return f"vault-credentials-{role}"
