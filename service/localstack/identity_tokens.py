"""JWTs for trying the service out, minted and signed by Vault's identity tokens. The service itself mints nothing.

Vault signs `identity/oidc/token/<role>` for whoever asks with a token that belongs to an entity. Each subject gets an
entity of its own. Vault compares entity names without regard to case, so an entity is named by a hash and carries
the exact subject as metadata, which the role's template puts into the claim `user`.

https://developer.hashicorp.com/vault/api-docs/secret/identity/tokens
"""

import hashlib
import json

from service.errors import InvalidInput
from service.localstack.policies import described
from service.localstack.vault_admin import VaultAdmin
from service.names import name_problem

ROLES = ("user", "orchestrator", "operator", "auditor")
AUDIENCE = "vault-credentials"
USER_CLAIM = "user"

_KEY = "vault-credentials"
_SUBJECT_ROLE = "vault-credentials-subject"


def ensure_issuer(vault: VaultAdmin, *, is_ours: bool) -> str:
    """Sets up the signing key, a role for each of ours and what `mint` needs; returns the issuer's URL (`iss`).

    The issuer's URL of a Vault that isn't ours is set only where nobody has: all its identity tokens carry it.
    """
    wanted = described()["oidc"]
    configured = str(vault.data("GET", "identity/oidc/config").get("issuer") or "")
    if is_ours or not configured:
        configured = vault.address
        vault.call("POST", "identity/oidc/config", {"issuer": configured})
    vault.call(
        "POST",
        f"identity/oidc/key/{_KEY}",
        {
            **wanted["key"],
            "allowed_client_ids": [AUDIENCE],
        },
    )
    for role in ROLES:
        # One role, one value: a token carries exactly the role it was asked for.
        template = f'{{"{USER_CLAIM}": {{{{identity.entity.metadata.user}}}}, "roles": {json.dumps([role])}}}'
        vault.call(
            "POST",
            f"identity/oidc/role/{_oidc_role(role)}",
            {"key": _KEY, "client_id": AUDIENCE, "ttl": wanted["ttl"], "template": template},
        )
    policies = []
    for role in ROLES:
        policies.append(f"vault-credentials-mint-{role}")
        rule = f'path "identity/oidc/token/{_oidc_role(role)}" {{\n  capabilities = ["read"]\n}}\n'
        vault.call("PUT", f"sys/policies/acl/{policies[-1]}", {"policy": rule})
    vault.call(
        "POST",
        f"auth/token/roles/{_SUBJECT_ROLE}",
        {
            "allowed_policies": policies,
            "allowed_entity_aliases": ["vault-credentials-*"],
            "orphan": True,
            "renewable": False,
            "token_no_default_policy": True,
            "token_explicit_max_ttl": 60,
            "token_num_uses": 1,
            "token_type": "service",
        },
    )
    return f"{configured.rstrip('/')}/v1/identity/oidc"


def mint(vault: VaultAdmin, role: str, subject: str) -> str:
    """A JWT for one hour: `user` is exactly `subject`, `roles` is `[role]`, `aud` is `vault-credentials`.

    Raises:
        InvalidInput: no such role; or the subject is no name that the service takes.
        VaultDenied, VaultRefused, VaultUnavailable: from Vault.
    """
    if role not in ROLES:
        raise InvalidInput("role", f"must be one of {', '.join(ROLES)}")
    if (problem := name_problem(subject)) is not None:
        raise InvalidInput("subject", problem)
    # The rights that all of this needs, and no more, are in local-minting.hcl.
    name = f"vault-credentials-{hashlib.sha256(subject.encode()).hexdigest()}"
    _ensure_entity(vault, name, subject)
    login = vault.call(
        "POST",
        f"auth/token/create/{_SUBJECT_ROLE}",
        {"entity_alias": name, "policies": [f"vault-credentials-mint-{role}"]},
    )
    with vault.with_token(str(login["auth"]["client_token"])) as subjects_own:
        return str(subjects_own.data("GET", f"identity/oidc/token/{_oidc_role(role)}")["token"])


def _oidc_role(role: str) -> str:
    return f"vault-credentials-{role}"


def _ensure_entity(vault: VaultAdmin, name: str, subject: str) -> None:
    """The subject's entity and its alias on the token login. Both writes find what is there already by its name."""
    path = f"identity/entity/name/{name}"
    entity = vault.find(path)
    if entity is None or (entity.get("metadata") or {}).get("user") != subject or not entity.get("aliases"):
        vault.call("POST", path, {"metadata": {"user": subject}})
        entity = vault.data("GET", path)
        accessor = vault.data("GET", "sys/auth")["token/"]["accessor"]
        vault.call(
            "POST",
            "identity/entity-alias",
            {"name": name, "canonical_id": entity["id"], "mount_accessor": accessor},
        )
