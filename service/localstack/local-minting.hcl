# What `vault-credentials token` mints with. Its token stays in the state folder and is never printed.
# Vault cannot limit which entity an alias is put on (`canonical_id`), so this token can speak as any entity that the
# Vault has. That is more than nothing on a Vault that has others: give the local stack a Vault for trying things out.

path "identity/entity/name/vault-credentials-*" {
  capabilities = ["create", "read", "update"]
  allowed_parameters = {
    "metadata" = []
  }
}

path "identity/entity-alias" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    "name"           = ["vault-credentials-*"]
    "mount_accessor" = ["TOKEN_ACCESSOR"]
    "canonical_id"   = []
  }
}

path "auth/token/create/vault-credentials-subject" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    "entity_alias" = ["vault-credentials-*"]
    "policies"     = []
  }
}

# A person's token for the Vault UI: each of these token roles gives one policy, whatever is asked for.
path "auth/token/create/vault-credentials-operator" {
  capabilities = ["update"]
  allowed_parameters = {
    "display_name" = []
  }
}

path "auth/token/create/vault-credentials-auditor" {
  capabilities = ["update"]
  allowed_parameters = {
    "display_name" = []
  }
}

# The accessor of the token login, which an alias needs.
path "sys/auth" {
  capabilities = ["read"]
}
