# A person who looks after the keys in the Vault UI or with the CLI: rotates them, sets when they rotate, and trims
# versions that are retired. Retiring itself (`min_decryption_version`) goes through the service, which knows what is
# still under a version. Reads no credential, not even its ciphertext.
# Mounts: `transit`, `credentials` (KV v2). Under other names, replace the first segment of each path.

path "transit/keys" {
  capabilities = ["list"]
}

# Versions, times, settings and public keys, never key material.
path "transit/keys/credentials-*" {
  capabilities = ["read"]
}

# Each key by its name: with `+` or `*` in its place these would be about any other application's keys too.
path "transit/keys/credentials-alpaca/rotate" {
  capabilities = ["update"]
  denied_parameters = {
    "*" = []
  }
}

path "transit/keys/credentials-polygon/rotate" {
  capabilities = ["update"]
  denied_parameters = {
    "*" = []
  }
}

# The keys for HMACs and for signatures too: what was made under an older version is checked under that one.
path "transit/keys/credentials-idempotency/rotate" {
  capabilities = ["update"]
  denied_parameters = {
    "*" = []
  }
}

path "transit/keys/credentials-events/rotate" {
  capabilities = ["update"]
  denied_parameters = {
    "*" = []
  }
}

# Neither `min_decryption_version`, which the service raises when nothing needs the versions below it, nor what cannot
# be taken back (`exportable`, `allow_plaintext_backup`), nor `deletion_allowed`.
path "transit/keys/credentials-alpaca/config" {
  capabilities = ["update"]
  allowed_parameters = {
    "auto_rotate_period"     = []
    "min_encryption_version" = []
  }
}

path "transit/keys/credentials-polygon/config" {
  capabilities = ["update"]
  allowed_parameters = {
    "auto_rotate_period"     = []
    "min_encryption_version" = []
  }
}

# Gone for good. Vault refuses a version above the key's `min_decryption_version`.
path "transit/keys/credentials-alpaca/trim" {
  capabilities = ["update"]
  allowed_parameters = {
    "min_available_version" = []
  }
}

path "transit/keys/credentials-polygon/trim" {
  capabilities = ["update"]
  allowed_parameters = {
    "min_available_version" = []
  }
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
