# The local stack's VAULT_TOKEN (`vault-credentials env`): looking around, trying things out, breaking things on purpose.
# For one machine only: no production role has this much. It still cannot decrypt, nor read a key.
# Mounts: `transit`, `credentials` (KV v2). Under other names, the first segment of each path is replaced.

path "transit/keys" {
  capabilities = ["list"]
}

path "transit/keys/credentials-*" {
  capabilities = ["read"]
}

path "transit/keys/+/rotate" {
  capabilities = ["update"]
}

# `exportable` and `allow_plaintext_backup` cannot be taken back, and would let the key out.
path "transit/keys/+/config" {
  capabilities = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
    "min_encryption_version" = []
    "auto_rotate_period"     = []
  }
}

path "credentials/*" {
  capabilities = ["create", "read", "update", "patch", "delete", "list"]
}

# Minting identity tokens for `vault-credentials token`.
path "identity/entity" {
  capabilities = ["create", "update"]
}

path "identity/entity/*" {
  capabilities = ["create", "read", "update", "list"]
}

path "identity/entity-alias" {
  capabilities = ["create", "update"]
}

path "identity/oidc/role/*" {
  capabilities = ["read", "list"]
}

path "auth/token/create/vault-credentials-subject" {
  capabilities = ["create", "update"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

# The service's login: look at it, give it a new secret id, take one away.
path "auth/approle/role/credentials-runtime" {
  capabilities = ["read"]
}

path "auth/approle/role/credentials-runtime/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "sys/health" {
  capabilities = ["read", "sudo"]
}

path "sys/auth" {
  capabilities = ["read"]
}

path "sys/mounts" {
  capabilities = ["read"]
}

path "sys/mounts/*" {
  capabilities = ["read"]
}

path "sys/internal/ui/mounts/*" {
  capabilities = ["read"]
}

path "sys/capabilities-self" {
  capabilities = ["update"]
}

path "sys/policies/acl" {
  capabilities = ["list"]
}

path "sys/policies/acl/*" {
  capabilities = ["read", "list"]
}

path "sys/audit" {
  capabilities = ["read", "sudo"]
}

path "sys/seal" {
  capabilities = ["update", "sudo"]
}
