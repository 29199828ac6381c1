# What rotates, rewraps and retires: `vault-credentials worker`, or the service given this login too. It works on
# ciphertext alone: it cannot decrypt, cannot destroy or delete a version, and cannot make a credential's path.
# Mounts: `transit`, `credentials` (KV v2). Under other names, replace the first segment of each path.

# Versions, times and public keys, never key material.
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

# Retiring. `exportable` and `allow_plaintext_backup`, which cannot be taken back, are the same call.
path "transit/keys/credentials-alpaca/config" {
  capabilities = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
  }
}

path "transit/keys/credentials-polygon/config" {
  capabilities = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
  }
}

# Ciphertext in, ciphertext out.
path "transit/rewrap/credentials-alpaca" {
  capabilities = ["update"]
  allowed_parameters = {
    "ciphertext"                    = []
    "context"                       = []
    "batch_input"                   = []
    "partial_failure_response_code" = []
  }
}

path "transit/rewrap/credentials-polygon" {
  capabilities = ["update"]
  allowed_parameters = {
    "ciphertext"                    = []
    "context"                       = []
    "batch_input"                   = []
    "partial_failure_response_code" = []
  }
}

# Seals over the events.
path "transit/sign/credentials-events" {
  capabilities = ["update"]
  allowed_parameters = {
    "input" = []
  }
}

# Ciphertext, at <account id>/<credential id>. No `create`: a path that is not there is a credential that was deleted.
# `version` is for reading; Vault checks allowed parameters on reads as well.
path "credentials/data/+/+" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "data"    = []
    "options" = []
    "version" = []
  }
}

# Custom metadata is what a person in the Vault UI sees. The other parameters could make Vault throw ciphertext away.
path "credentials/metadata/+/+" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}

# The newest seal over the events.
path "credentials/data/event-seal" {
  capabilities = ["create", "read", "update"]
  allowed_parameters = {
    "data"    = []
    "options" = []
    "version" = []
  }
}

# Which installation this mount belongs to. Provisioning writes it.
path "credentials/data/installation" {
  capabilities = ["read"]
}

# Its own token. (The role has no `default` policy, which would grant these and more.)
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
