# The service's own policy: what storing, opening, updating and deleting credentials needs, and nothing else.
# Mounts: `transit`, `credentials` (KV v2). Under other names, replace the first segment of each path.

# Encrypt and decrypt under each type's key, by its name: with `*` in its place these would be about any key that begins
# so, the ones for HMACs and signatures below included. No `create`: encrypting under an unknown name would make a key.
# Allowed parameters leave out what would change how a key is made or used (type, convergent_encryption, nonce). Vault
# does not look into `batch_input`: an item there may still name a key_version, down to its min_encryption_version.
path "transit/encrypt/credentials-alpaca" {
  capabilities = ["update"]
  allowed_parameters = {
    "plaintext"                     = []
    "context"                       = []
    "batch_input"                   = []
    "partial_failure_response_code" = []
  }
}

path "transit/encrypt/credentials-polygon" {
  capabilities = ["update"]
  allowed_parameters = {
    "plaintext"                     = []
    "context"                       = []
    "batch_input"                   = []
    "partial_failure_response_code" = []
  }
}

# A hand-off is a decryption whose answer is wrapped, which needs no right of its own. No `max_wrapping_ttl`: it would
# refuse every decryption that is not wrapped. (The service sees to it that a hand-off lasts 300 s at most.)
path "transit/decrypt/credentials-alpaca" {
  capabilities = ["update"]
  allowed_parameters = {
    "ciphertext"                    = []
    "context"                       = []
    "batch_input"                   = []
    "partial_failure_response_code" = []
  }
}

path "transit/decrypt/credentials-polygon" {
  capabilities = ["update"]
  allowed_parameters = {
    "ciphertext"                    = []
    "context"                       = []
    "batch_input"                   = []
    "partial_failure_response_code" = []
  }
}

# The key that compares request bodies makes HMACs and nothing else.
path "transit/hmac/credentials-idempotency" {
  capabilities = ["update"]
  allowed_parameters = {
    "input" = []
  }
}

path "transit/verify/credentials-idempotency" {
  capabilities = ["update"]
  allowed_parameters = {
    "input" = []
    "hmac"  = []
  }
}

# Readiness (is the key there, and derived?) and `/keys`. This shows versions and times, never key material.
path "transit/keys/credentials-*" {
  capabilities = ["read"]
}

# Ciphertext, at <account id>/<credential id>. No `delete` here: versions are destroyed, or the path with all of them.
# `version` is for reading; Vault checks allowed parameters on reads as well.
path "credentials/data/+/+" {
  capabilities = ["create", "read", "update"]
  allowed_parameters = {
    "data"    = []
    "options" = []
    "version" = []
  }
}

# Custom metadata is what a person in the Vault UI sees. The other parameters (max_versions, cas_required,
# delete_version_after) could make Vault throw ciphertext away, so they are not the service's to set.
path "credentials/metadata/+/+" {
  capabilities = ["create", "read", "update", "delete"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}

path "credentials/destroy/+/+" {
  capabilities = ["update"]
  allowed_parameters = {
    "versions" = []
  }
}

# For `reconcile --scan`: names, no contents.
path "credentials/metadata/" {
  capabilities = ["list"]
}

path "credentials/metadata/+/" {
  capabilities = ["list"]
}

# Which installation this mount belongs to. Provisioning writes it.
path "credentials/data/installation" {
  capabilities = ["read"]
}

# The newest seal over the events. The rotator writes it.
path "credentials/data/event-seal" {
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
