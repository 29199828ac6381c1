"""What each role may do at each kind of path, written out: the table that `test_vault_policies_grid` asks a Vault for.

In a path `{credential}` stands for a new credential's `<account>/<credential>`, `{account}` for its first part,
`{absent}` for such a path where nothing is. A role's methods are those that it may use; all others must be refused.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

METHODS = ("GET", "LIST", "PATCH", "POST", "DELETE")
"""In the order in which they are tried: what takes away comes last. To Vault, PUT is POST."""

CONTEXT = b64encode(b"c" * 32).decode()
PLAINTEXT = b64encode(b"plaintext").decode()
_SEALED = {"plaintext": PLAINTEXT, "context": CONTEXT}
_BATCH = {"batch_input": [_SEALED], "partial_failure_response_code": 200}
_OPENED = {"ciphertext": "{ciphertext}", "context": CONTEXT}
_DATA = {"data": {"ciphertext": "vault:v1:x"}, "options": {"cas": 3}}
_NEW = {"data": {"ciphertext": "vault:v1:x"}, "options": {"cas": 0}}
_TYPE_KEYS = ("credentials-alpaca", "credentials-polygon")
_EVERYONE = "runtime rotator operator auditor"


@dataclass(frozen=True)
class Row:
    """One kind of request: a path, what is posted there, and who may use which methods."""

    path: str
    body: Any = field(default_factory=dict)
    may: dict[str, str] = field(default_factory=dict)
    asks_no_policy: bool = False
    """Vault answers some of its methods, that do nothing, before it looks at a policy: a refusal is 404 or 405."""

    def allows(self, role: str, method: str) -> bool:
        return method in self.may.get(role, "").split()

    def __str__(self) -> str:
        return f"{self.path}-{','.join(self.body or ())}"


def _row(path: str, body: Any = None, **may: str) -> Row:
    return Row(path, {} if body is None else body, may)


def _read_by(roles: str, path: str) -> Row:
    return Row(path, {}, dict.fromkeys(roles.split(), "GET"))


def _before_policies(path: str, roles: str = "") -> Row:
    return Row(path, {}, dict.fromkeys(roles.split(), "GET"), asks_no_policy=True)


def _for_nobody(path: str, body: Any = None) -> Row:
    return Row(path, {} if body is None else body)


def _each_type(key: str) -> list[Row]:
    # Reading `…/rotate` is allowed by the rule about reading keys, and is nothing that Vault does.
    nothing = {"runtime": "GET", "auditor": "GET"}
    config = f"transit/keys/{key}/config"
    return [
        _row(f"transit/keys/{key}/rotate", **nothing, rotator="POST", operator="POST"),
        _row(f"transit/keys/{key}/rotate", {"managed_key_name": "x"}, **nothing),
        _row(config, {"min_decryption_version": 1}, **nothing, rotator="POST"),
        _row(config, {"auto_rotate_period": "720h"}, **nothing, operator="POST"),
        _row(config, {"min_encryption_version": 1}, **nothing, operator="POST"),
        _row(config, {"min_decryption_version": 1, "exportable": True}, **nothing),
        _row(config, {"min_decryption_version": 1, "allow_plaintext_backup": True}, **nothing),
        _row(config, {"min_decryption_version": 1, "deletion_allowed": True}, **nothing),
        _row(config, {"min_decryption_version": 1, "auto_rotate_period": "720h"}, **nothing),
        _row(config, {"auto_rotate_period": "720h", "exportable": True}, **nothing),
        _row(config, {"auto_rotate_period": "720h", "EXPORTABLE": True}, **nothing),
        _row(config, {"auto_rotate_period": "720h", "allow_plaintext_backup": True}, **nothing),
        _row(config, {"auto_rotate_period": "720h", "deletion_allowed": True}, **nothing),
        _row(f"transit/keys/{key}/trim", {"min_available_version": 1}, **nothing, rotator="GET", operator="POST"),
        _row(f"transit/encrypt/{key}", _SEALED, runtime="POST"),
        _row(f"transit/encrypt/{key}", _BATCH, runtime="POST"),
        _for_nobody(f"transit/encrypt/{key}", {**_SEALED, "key_version": 1}),
        _for_nobody(f"transit/encrypt/{key}", {**_SEALED, "associated_data": PLAINTEXT}),
        _row(f"transit/decrypt/{key}", _OPENED, runtime="POST"),
        _row(f"transit/decrypt/{key}", {"batch_input": [_OPENED]}, runtime="POST"),
        _row(f"transit/rewrap/{key}", _OPENED, rotator="POST"),
        _row(f"transit/rewrap/{key}", {"batch_input": [_OPENED], "partial_failure_response_code": 200}, rotator="POST"),
        _for_nobody(f"transit/rewrap/{key}", {**_OPENED, "key_version": 1}),
        _for_nobody(f"transit/hmac/{key}", {"input": PLAINTEXT}),
        _for_nobody(f"transit/verify/{key}", {"input": PLAINTEXT, "hmac": "vault:v1:x"}),
        _for_nobody(f"transit/sign/{key}", {"input": PLAINTEXT}),
        _for_nobody(f"transit/datakey/plaintext/{key}", {"context": CONTEXT}),
        _for_nobody(f"transit/datakey/wrapped/{key}", {"context": CONTEXT}),
        _for_nobody(f"transit/derived-keys/{key}"),
        *_key_taken_out(key),
    ]


def _key_taken_out(key: str) -> list[Row]:
    nothing = {"runtime": "GET", "rotator": "GET", "operator": "GET", "auditor": "GET"}
    return [
        _read_by(_EVERYONE, f"transit/keys/{key}"),
        _for_nobody(f"transit/export/encryption-key/{key}"),
        _for_nobody(f"transit/export/encryption-key/{key}/1"),
        _for_nobody(f"transit/export/hmac-key/{key}"),
        _for_nobody(f"transit/export/signing-key/{key}"),
        _for_nobody(f"transit/byok-export/other/{key}"),
        _for_nobody(f"transit/backup/{key}"),
        _for_nobody(f"transit/restore/{key}", {"backup": "x"}),
        _row(f"transit/keys/{key}/import", {"ciphertext": "x"}, **nothing),
        _row(f"transit/keys/{key}/import_version", {"ciphertext": "x"}, **nothing),
        _row(f"transit/keys/{key}/soft-delete", **nothing),
    ]


def _of_others(key: str, *, seen: str = "") -> list[Row]:
    """Another application's key on the same mount. One whose name begins as this service's is seen, and left alone."""
    look = dict.fromkeys(seen.split(), "GET")
    return [
        _row(f"transit/keys/{key}", {"type": "aes256-gcm96"}, **look),
        _row(f"transit/keys/{key}/rotate", **look),
        _row(f"transit/keys/{key}/config", {"min_decryption_version": 1}, **look),
        _row(f"transit/keys/{key}/config", {"auto_rotate_period": "720h"}, **look),
        _row(f"transit/keys/{key}/trim", {"min_available_version": 1}, **look),
        _for_nobody(f"transit/encrypt/{key}", {"plaintext": PLAINTEXT}),
        _for_nobody(f"transit/decrypt/{key}", {"ciphertext": "vault:v1:x"}),
        _for_nobody(f"transit/rewrap/{key}", {"ciphertext": "vault:v1:x"}),
        _for_nobody(f"transit/sign/{key}", {"input": PLAINTEXT}),
        _for_nobody(f"transit/export/encryption-key/{key}"),
        _for_nobody(f"transit/backup/{key}"),
    ]


_TRANSIT = [
    _row("transit/keys", operator="LIST", auditor="LIST"),
    *(row for key in _TYPE_KEYS for row in _each_type(key)),
    # A key that is not there: nobody makes one. (Reading it is allowed, and answered 404.)
    _read_by(_EVERYONE, "transit/keys/credentials-unheard-of"),
    _for_nobody("transit/encrypt/credentials-unheard-of", _SEALED),
    # The key that compares request bodies.
    _read_by(_EVERYONE, "transit/keys/credentials-idempotency"),
    _row("transit/hmac/credentials-idempotency", {"input": PLAINTEXT}, runtime="POST"),
    _row("transit/verify/credentials-idempotency", {"input": PLAINTEXT, "hmac": "{hmac}"}, runtime="POST"),
    _for_nobody("transit/hmac/credentials-idempotency", {"input": PLAINTEXT, "key_version": 1}),
    _for_nobody("transit/verify/credentials-idempotency", {"input": PLAINTEXT, "signature": "vault:v1:x"}),
    _for_nobody("transit/encrypt/credentials-idempotency", {"plaintext": PLAINTEXT}),
    _for_nobody("transit/decrypt/credentials-idempotency", {"ciphertext": "vault:v1:x"}),
    _for_nobody("transit/export/hmac-key/credentials-idempotency"),
    _for_nobody("transit/backup/credentials-idempotency"),
    _row("transit/keys/credentials-idempotency/rotate", runtime="GET", rotator="GET", operator="POST", auditor="GET"),
    _read_by(_EVERYONE, "transit/keys/credentials-idempotency/config"),
    # The key that signs the seals over the events.
    *_key_taken_out("credentials-events"),
    _row("transit/sign/credentials-events", {"input": PLAINTEXT}, rotator="POST"),
    _for_nobody("transit/sign/credentials-events", {"input": PLAINTEXT, "key_version": 1}),
    _for_nobody("transit/sign/credentials-events", {"input": PLAINTEXT, "prehashed": True}),
    _for_nobody("transit/sign/credentials-events", {"batch_input": [{"input": PLAINTEXT}]}),
    _for_nobody("transit/sign/credentials-events/sha2-512", {"input": PLAINTEXT}),
    _for_nobody("transit/encrypt/credentials-events", _SEALED),
    _for_nobody("transit/decrypt/credentials-events", {"ciphertext": "vault:v1:x"}),
    _for_nobody("transit/hmac/credentials-events", {"input": PLAINTEXT}),
    _row("transit/keys/credentials-events/rotate", runtime="GET", rotator="GET", operator="POST", auditor="GET"),
    _row(
        "transit/keys/credentials-events/config",
        {"min_decryption_version": 1},
        **dict.fromkeys(_EVERYONE.split(), "GET"),
    ),
    _read_by(_EVERYONE, "transit/keys/credentials-events/trim"),
    # Other applications' keys, the mount itself, and another mount.
    *_of_others("payments"),
    *_of_others("credentials-of-others", seen=_EVERYONE),
    _for_nobody("transit/restore", {"backup": "x"}),
    _for_nobody("transit/config/keys", {"disable_upsert": False}),
    _for_nobody("transit/cache-config", {"size": 0}),
    _for_nobody("transit/wrapping_key"),
    _for_nobody("transit/random/32"),
    _for_nobody("transit/hash/sha2-256", {"input": PLAINTEXT}),
    _for_nobody("other-transit/keys"),
    _for_nobody("other-transit/keys/credentials-alpaca"),
    _for_nobody("other-transit/keys/credentials-alpaca/rotate"),
    _for_nobody("other-transit/decrypt/credentials-alpaca", {"ciphertext": "vault:v1:x"}),
]

_KV = [
    _row("credentials/data/{credential}", _DATA, runtime="GET POST", rotator="GET POST"),
    _row("credentials/data/{absent}", _NEW, runtime="GET POST", rotator="GET"),
    _for_nobody("credentials/data/{account}"),
    _for_nobody("credentials/data/{credential}/more", _NEW),
    _for_nobody("credentials/data/one-segment", _NEW),
    _read_by("runtime rotator", "credentials/data/installation"),
    _row(
        "credentials/data/event-seal",
        {"data": {"number": "2"}, "options": {"cas": 1}},
        runtime="GET",
        rotator="GET POST",
        auditor="GET",
    ),
    _row(
        "credentials/metadata/{credential}",
        {"custom_metadata": {"transit_key_version": "2"}},
        runtime="GET POST DELETE",
        rotator="GET POST",
        operator="GET",
        auditor="GET",
    ),
    *(
        _row(
            "credentials/metadata/{credential}",
            {"custom_metadata": {}, **more},
            runtime="GET DELETE",
            rotator="GET",
            operator="GET",
            auditor="GET",
        )
        for more in ({"max_versions": 1}, {"cas_required": False}, {"delete_version_after": "1s"})
    ),
    _row("credentials/metadata", runtime="LIST", operator="LIST", auditor="LIST"),
    _row("credentials/metadata/{account}", runtime="LIST", operator="LIST", auditor="LIST"),
    # Listing below one of these is as listing an account, and finds nothing.
    _row("credentials/metadata/installation", runtime="LIST", operator="LIST", auditor="LIST"),
    _row("credentials/metadata/event-seal", runtime="LIST", operator="LIST", auditor="GET"),
    _row("credentials/destroy/{credential}", {"versions": [1]}, runtime="POST"),
    _for_nobody("credentials/destroy/installation", {"versions": [1]}),
    _for_nobody("credentials/destroy/event-seal", {"versions": [1]}),
    _for_nobody("credentials/delete/{credential}", {"versions": [1]}),
    _for_nobody("credentials/undelete/{credential}", {"versions": [1]}),
    _for_nobody("credentials/subkeys/{credential}"),
    _row("credentials/config", {"max_versions": 1}, auditor="GET"),
    _for_nobody("other-kv/data/a/b", _DATA),
    _for_nobody("other-kv/metadata/a/b"),
    _for_nobody("other-kv/metadata"),
]

_VAULT = [
    # What the UI asks. The mounts are told to anyone, without a token too, and only those that the token may use.
    _before_policies("sys/internal/ui/mounts", _EVERYONE),
    _before_policies("sys/internal/ui/mounts/transit", _EVERYONE),
    _before_policies("sys/internal/ui/mounts/credentials", _EVERYONE),
    _before_policies("sys/internal/ui/mounts/other-kv"),
    _row("sys/internal/ui/resultant-acl", operator="GET", auditor="GET"),
    _row("sys/capabilities-self", {"paths": ["transit/keys"]}, operator="POST", auditor="POST"),
    _read_by("auditor", "sys/policies/acl/credentials-runtime"),
    _read_by("auditor", "sys/policies/acl/credentials-rotator"),
    _read_by("auditor", "sys/policies/acl/credentials-operator"),
    _row("sys/policies/acl/credentials-auditor", {"policy": 'path "*" { capabilities = ["sudo"] }'}, auditor="GET"),
    _for_nobody("sys/policies/acl/more", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
    _for_nobody("sys/policies/acl"),
    _for_nobody("sys/policy/more", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
    _for_nobody("sys/policies/password/more", {"policy": "length = 20"}),
    _for_nobody("sys/capabilities", {"token": "x", "paths": ["transit/keys"]}),
    _for_nobody("sys/capabilities-accessor", {"accessor": "x", "paths": ["transit/keys"]}),
    _for_nobody("sys/auth"),
    _for_nobody("sys/auth/more", {"type": "userpass"}),
    _for_nobody("sys/auth/approle/tune", {"default_lease_ttl": "1h"}),
    _for_nobody("sys/mounts"),
    _for_nobody("sys/mounts/more", {"type": "kv"}),
    _for_nobody("sys/mounts/credentials"),
    _for_nobody("sys/mounts/transit/tune", {"max_lease_ttl": "1h"}),
    _for_nobody("sys/remount", {"from": "credentials", "to": "elsewhere"}),
    _for_nobody("sys/audit"),
    _for_nobody("sys/audit/file", {"type": "file", "options": {"file_path": "/dev/null"}}),
    _for_nobody("sys/audit-hash/file", {"input": "x"}),
    _for_nobody("sys/config/auditing/request-headers"),
    _for_nobody("sys/config/auditing/request-headers/X-Credentials-Batch-Id", {"hmac": True}),
    _for_nobody("sys/config/auditing/request-headers/X-Request-Id", {"hmac": True}),
    _for_nobody("sys/config/auditing/request-headers/Traceparent", {"hmac": True}),
    _for_nobody("sys/config/cors", {"allowed_origins": "*"}),
    _for_nobody("sys/config/ui/headers/X-More", {"values": ["x"]}),
    _for_nobody("sys/config/state/sanitized"),
    _for_nobody("sys/raw/core/keyring", {"value": "x"}),
    _for_nobody("sys/raw"),
    _for_nobody("sys/storage/raft/snapshot"),
    _for_nobody("sys/storage/raft/snapshot-force"),
    _for_nobody("sys/storage/raft/configuration"),
    _for_nobody("sys/storage/raft/remove-peer", {"server_id": "x"}),
    _before_policies("sys/seal"),
    _before_policies("sys/step-down"),
    _for_nobody("sys/rotate"),
    _for_nobody("sys/rotate/config", {"max_operations": 1_000_000_000}),
    _for_nobody("sys/key-status"),
    _for_nobody("sys/leases"),
    _for_nobody("sys/leases/lookup/auth"),
    _for_nobody("sys/leases/revoke-prefix/auth"),
    _for_nobody("sys/plugins/catalog/secret/more", {"command": "x", "sha256": "x"}),
    _for_nobody("sys/plugins/reload/backend", {"plugin": "transit"}),
    _for_nobody("sys/quotas/rate-limit/more", {"rate": 1}),
    _for_nobody("sys/loggers", {"level": "trace"}),
    _for_nobody("sys/tools/random/32"),
    _for_nobody("sys/wrapping/wrap", {"a": "b"}),
    _for_nobody("sys/pprof/heap"),
    _for_nobody("sys/host-info"),
    _for_nobody("sys/internal/counters/activity"),
    _for_nobody("sys/generate-recovery-token/attempt"),
    # More power, or somebody else's.
    _read_by(_EVERYONE, "auth/token/lookup-self"),
    _row("auth/token/renew-self", **dict.fromkeys(_EVERYONE.split(), "POST")),
    _row("auth/token/revoke-self", **dict.fromkeys(_EVERYONE.split(), "POST")),
    _for_nobody("auth/token/lookup", {"token": "x"}),
    _for_nobody("auth/token/renew", {"token": "x"}),
    _for_nobody("auth/token/revoke", {"token": "x"}),
    _for_nobody("auth/token/accessors"),
    _for_nobody("auth/token/lookup-accessor", {"accessor": "x"}),
    _for_nobody("auth/token/renew-accessor", {"accessor": "x"}),
    _for_nobody("auth/token/revoke-accessor", {"accessor": "x"}),
    _for_nobody("auth/token/revoke-orphan", {"token": "x"}),
    _for_nobody("auth/token/create"),
    _for_nobody("auth/token/create", {"policies": ["root"]}),
    _for_nobody("auth/token/create-orphan"),
    _for_nobody("auth/token/create/vault-credentials-operator"),
    _for_nobody("auth/token/create/vault-credentials-auditor"),
    _for_nobody("auth/token/roles/vault-credentials-auditor", {"allowed_policies": ["root"]}),
    _for_nobody("auth/token/tidy"),
    *(
        row
        for role in ("credentials-runtime", "credentials-rotator")
        for row in (
            _for_nobody(f"auth/approle/role/{role}", {"token_policies": ["root"]}),
            _for_nobody(f"auth/approle/role/{role}/role-id"),
            _for_nobody(f"auth/approle/role/{role}/secret-id"),
            _for_nobody(f"auth/approle/role/{role}/custom-secret-id", {"secret_id": "x"}),
            _for_nobody(f"auth/approle/role/{role}/secret-id/lookup", {"secret_id": "x"}),
            _for_nobody(f"auth/approle/role/{role}/secret-id-accessor/destroy", {"secret_id_accessor": "x"}),
            _for_nobody(f"auth/approle/role/{role}/token-policies", {"token_policies": ["root"]}),
            _for_nobody(f"auth/approle/role/{role}/token-bound-cidrs", {"token_bound_cidrs": []}),
        )
    ),
    _for_nobody("auth/approle/role"),
    _for_nobody("auth/approle/tidy/secret-id"),
    _for_nobody("identity/entity", {"name": "x", "policies": ["root"]}),
    _for_nobody("identity/entity/name/x", {"policies": ["root"]}),
    _for_nobody("identity/entity/id"),
    _for_nobody("identity/entity-alias", {"name": "x", "canonical_id": "x", "mount_accessor": "x"}),
    _for_nobody("identity/group", {"name": "x", "policies": ["root"]}),
    _for_nobody("identity/oidc/config", {"issuer": "http://127.0.0.1:1"}),
    _for_nobody("identity/oidc/key/vault-credentials", {"algorithm": "RS256"}),
    _for_nobody("identity/oidc/role/vault-credentials-operator", {"template": "e30="}),
    _for_nobody("identity/oidc/token/vault-credentials-operator"),
    _for_nobody("identity/mfa/method"),
    _for_nobody("cubbyhole/x", {"a": "b"}),
]

ROLES = ("runtime", "rotator", "operator", "auditor")
"""Every role that has a file. A new one is refused everything here until its column is written."""

GRID = [*_TRANSIT, *_KV, *_VAULT]
