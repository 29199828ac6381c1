# The local stack's VAULT_TOKEN (`vault-credentials env`): looking around, trying things out, losing ciphertext on
# purpose. No production role has this much. What it cannot do: decrypt, read or take out a key, log in as the service,
# mint identity tokens, make a token, touch an identity or a policy. So nothing it has leads to more than this.
# Mounts: `transit`, `credentials` (KV v2). Under other names, the first segment of each path is replaced.

path "transit/keys" {
  capabilities = ["list"]
}

path "transit/keys/credentials-*" {
  capabilities = ["read"]
}

# Each key by its name: with `+` in its place these would be about any other application's keys too.
path "transit/keys/credentials-alpaca/rotate" {
  capabilities = ["update"]
}

path "transit/keys/credentials-polygon/rotate" {
  capabilities = ["update"]
}

# `exportable` and `allow_plaintext_backup` cannot be taken back, and would let the key out.
path "transit/keys/credentials-alpaca/config" {
  capabilities = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
    "min_encryption_version" = []
    "auto_rotate_period"     = []
  }
}

path "transit/keys/credentials-polygon/config" {
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

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

# The service's login: its terms, and neither of the two ids it logs in with.
path "auth/approle/role/credentials-runtime" {
  capabilities = ["read"]
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
