"""Gives a Vault what the service needs. Idempotent: run again, it changes what differs and makes what is missing.

What holds afterwards: the mounts, the transit keys, each role's policy, the runtime's and the rotator's AppRole roles,
and the installation id, which ties this Vault to one Postgres database. A key or a mount that is there is never made
anew.

Vault documentation: https://developer.hashicorp.com/vault/api-docs (secret/transit, secret/kv/kv-v2, auth/approle,
system/audit, system/config-auditing).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import httpx

from service.errors import ConfigurationError, InstallationMismatch
from service.localstack.policies import (
    VaultNames,
    described,
    local_minting_policy,
    local_operator_policy,
    role_policies,
)
from service.localstack.vault_admin import VaultAdmin

CREDENTIAL_TYPES: tuple[str, ...] = tuple(described()["credential_types"])
"""Those that the Vault of every installation has keys for."""

_PERIOD = "768h"  # the longest lease a Vault grants by default; it begins anew at each renewal


@dataclass(frozen=True)
class AppRoleLogin:
    """What the service, or a worker, logs in with."""

    role_id: str
    secret_id: str = field(repr=False)


def provision(
    vault: VaultAdmin, installation_id: UUID, names: VaultNames, types: Sequence[str] = CREDENTIAL_TYPES
) -> None:
    """Mounts, keys, policies, AppRole roles, audited headers and installation id; `types`: of credentials.

    Raises:
        InstallationMismatch: this Vault belongs to another Postgres database. Nothing has been changed.
        ConfigurationError: a mount or a key is there, but is not what is needed. Nothing that is there was changed.
        VaultDenied, VaultRefused, VaultUnavailable: from Vault.
    """
    wanted = described()
    is_claimed = _check_installation(vault, installation_id, names)
    _mount(vault, names.transit, "transit", {})
    _mount(vault, names.kv, "kv", {"version": "2"})
    # KV's default of 10 versions would let ten failed updates push the pinned version out.
    vault.call("POST", f"{names.kv}/config", wanted["kv"])
    if not is_claimed:
        vault.call(
            "POST",
            f"{names.kv}/data/installation",
            {"data": {"id": str(installation_id)}, "options": {"cas": 0}},
        )
    for credential_type in types:
        _key(vault, names, names.type_key(credential_type), wanted["keys"]["credential_type"])
    _key(vault, names, names.idempotency_key, wanted["keys"]["idempotency"])
    _key(vault, names, names.events_key, wanted["keys"]["events"])
    for policy, rules in role_policies(names, types).items():
        _write_policy(vault, policy, rules)
    if f"{names.approle}/" not in vault.data("GET", "sys/auth"):
        vault.call("POST", f"sys/auth/{names.approle}", {"type": "approle"})
    # By default five failed logins lock a role id out for a quarter of an hour, the right secret id with it.
    # A role id is no secret, and nobody guesses a secret id.
    # https://developer.hashicorp.com/vault/docs/concepts/user-lockout
    vault.call("POST", f"sys/auth/{names.approle}/tune", {"user_lockout_config": {"lockout_disable": True}})
    # The operator and the auditor are people: they log in as the organisation's people do.
    for role in (names.role, names.rotator):
        vault.call(
            "POST",
            f"auth/{names.approle}/role/{role}",
            {"token_policies": [role], **wanted["token"], **wanted["approle"]},
        )
    # Random ids, logged in the clear: they join events and log lines of ours with Vault's own record.
    for header in wanted["audited_headers"].values():
        vault.call("POST", f"sys/config/auditing/request-headers/{header['name']}", {"hmac": header["hmac"]})


def runtime_login(vault: VaultAdmin, names: VaultNames, secret_id: str | None) -> AppRoleLogin:
    """The role's id, and the given secret id if Vault still takes it, else a new one."""
    return _login(vault, f"auth/{names.approle}/role/{names.role}", secret_id)


def rotator_login(vault: VaultAdmin, names: VaultNames, secret_id: str | None) -> AppRoleLogin:
    """As `runtime_login`, of the role that rotates, rewraps and retires."""
    return _login(vault, f"auth/{names.approle}/role/{names.rotator}", secret_id)


def operator_token(
    vault: VaultAdmin,
    names: VaultNames,
    kept: str | None,
    *,
    is_ours: bool,
    types: Sequence[str] = CREDENTIAL_TYPES,
) -> str:
    """The local stack's operator token: the kept one if it still lives (renewed), else a new one. Never root."""
    _write_policy(vault, "local-operator", local_operator_policy(names, types, may_seal=is_ours))
    return _kept_or_new(vault, "local-operator", kept)


def minting_token(vault: VaultAdmin, kept: str | None) -> str:
    """The token that `vault-credentials token` mints with (`identity_tokens.mint`), as `operator_token`."""
    accessor = str(vault.data("GET", "sys/auth")["token/"]["accessor"])
    _write_policy(vault, "local-minting", local_minting_policy(accessor))
    return _kept_or_new(vault, "local-minting", kept)


def _login(vault: VaultAdmin, role: str, secret_id: str | None) -> AppRoleLogin:
    role_id = str(vault.data("GET", f"{role}/role-id")["role_id"])
    if secret_id is not None:
        known = vault.raw("POST", f"{role}/secret-id/lookup", {"secret_id": secret_id})
        if known.status_code == httpx.codes.OK:
            return AppRoleLogin(role_id, secret_id)
    return AppRoleLogin(role_id, str(vault.data("POST", f"{role}/secret-id", {})["secret_id"]))


def _kept_or_new(vault: VaultAdmin, policy: str, kept: str | None) -> str:
    if kept is not None:
        renewed = vault.raw("POST", "auth/token/renew", {"token": kept})
        if renewed.status_code == httpx.codes.OK:
            return kept
    made = vault.call(
        "POST",
        "auth/token/create-orphan",
        {
            "policies": [policy],
            "no_default_policy": True,
            "period": _PERIOD,
            "display_name": policy,
        },
    )
    return str(made["auth"]["client_token"])


def ensure_audited(vault: VaultAdmin, audit_path: str | None, progress: Callable[[str], None]) -> None:
    """Turns on a file audit device where the path is known; on a Vault that isn't ours, says if there is none."""
    devices = vault.data("GET", "sys/audit")
    if audit_path is None:
        if not devices:
            progress("WARNING: the given Vault has no audit device, so nothing but this service records decryptions")
        return
    if "file/" not in devices:
        vault.call("POST", "sys/audit/file", {"type": "file", "options": {"file_path": audit_path}})


def _check_installation(vault: VaultAdmin, installation_id: UUID, names: VaultNames) -> bool:
    """Whether this Vault has been claimed by this installation already."""
    if f"{names.kv}/" not in vault.data("GET", "sys/mounts"):
        return False
    found = vault.find(f"{names.kv}/data/installation")
    if found is None:
        return False
    if (found.get("data") or {}).get("id") != str(installation_id):
        raise InstallationMismatch
    return True


def _mount(vault: VaultAdmin, path: str, kind: str, options: dict[str, str]) -> None:
    mounted = vault.data("GET", "sys/mounts").get(f"{path}/")
    if mounted is None:
        vault.call("POST", f"sys/mounts/{path}", {"type": kind, "options": options})
    elif mounted["type"] != kind or any((mounted["options"] or {}).get(k) != v for k, v in options.items()):
        raise ConfigurationError(f"Vault's mount {path}/ is there, but is no {kind} mount as needed")


def _key(vault: VaultAdmin, names: VaultNames, name: str, wanted: dict[str, object]) -> None:
    path = f"{names.transit}/keys/{name}"
    found = vault.find(path)
    if found is None:
        vault.call("POST", path, wanted)
        found = vault.data("GET", path)
    # `exportable` can't be undone: a key that has it is not one to put credentials under.
    wrong = [field for field, value in wanted.items() if field in ("type", "derived") and found.get(field) != value]
    wrong += [field for field in ("exportable", "allow_plaintext_backup", "deletion_allowed") if found.get(field)]
    if wrong:
        raise ConfigurationError(f"Vault's transit key {name} is there, but its {', '.join(wrong)} is not as needed")


def _write_policy(vault: VaultAdmin, name: str, policy: str) -> None:
    vault.call("PUT", f"sys/policies/acl/{name}", {"policy": policy})
