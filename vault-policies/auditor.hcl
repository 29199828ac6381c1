# A person who checks rotation in the Vault UI or with the CLI and can change nothing: sees the keys' versions and
# settings, and under which key and version each credential is. No credential's data, not even its ciphertext.
# Mounts: `transit`, `credentials` (KV v2). Under other names, replace the first segment of each path.

path "transit/keys" {
  capabilities = ["list"]
}

# Versions, times, settings and public keys, never key material.
path "transit/keys/credentials-*" {
  capabilities = ["read"]
}

# KV's names and metadata: the custom metadata shows each credential's type, key and key version.
path "credentials/metadata/" {
  capabilities = ["list"]
}

path "credentials/metadata/+/" {
  capabilities = ["list"]
}

path "credentials/metadata/+/+" {
  capabilities = ["read"]
}

path "credentials/config" {
  capabilities = ["read"]
}

# The newest seal over the events, which is no secret, and when each one was written.
path "credentials/data/event-seal" {
  capabilities = ["read"]
}

path "credentials/metadata/event-seal" {
  capabilities = ["read"]
}

# What each role may do.
path "sys/policies/acl/credentials-runtime" {
  capabilities = ["read"]
}

path "sys/policies/acl/credentials-rotator" {
  capabilities = ["read"]
}

path "sys/policies/acl/credentials-operator" {
  capabilities = ["read"]
}

path "sys/policies/acl/credentials-auditor" {
  capabilities = ["read"]
}

# What the Vault UI asks for its pages.
path "sys/internal/ui/mounts" {
  capabilities = ["read"]
}

path "sys/internal/ui/mounts/*" {
  capabilities = ["read"]
}

path "sys/internal/ui/resultant-acl" {
  capabilities = ["read"]
}

path "sys/capabilities-self" {
  capabilities = ["update"]
}

# Its own token.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
