# What the login that Terraform runs with needs to apply this module, under the default names. Whoever has it decides
# what the roles may do, and could so give itself anything they may: keep it as you keep the right to deploy.

# The provider works with a short-lived child of its token.
path "auth/token/create" {
  capabilities = ["update"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}

path "sys/mounts" {
  capabilities = ["read"]
}

# No `delete`: unmounting would take keys and ciphertext along.
path "sys/mounts/transit" {
  capabilities = ["create", "read", "update"]
}

path "sys/mounts/transit/tune" {
  capabilities = ["read", "update"]
}

path "sys/mounts/credentials" {
  capabilities = ["create", "read", "update"]
}

path "sys/mounts/credentials/tune" {
  capabilities = ["read", "update"]
}

path "credentials/config" {
  capabilities = ["create", "read", "update"]
}

path "credentials/data/installation" {
  capabilities = ["create", "read"]
}

path "credentials/metadata/installation" {
  capabilities = ["read"]
}

# Makes keys (`create`), and sets them up once they are made.
path "transit/keys/+" {
  capabilities = ["create", "read", "update"]
}

path "transit/keys/+/config" {
  capabilities = ["create", "update"]
}

path "sys/policies/acl/credentials-*" {
  capabilities = ["create", "read", "update", "delete"]
}

path "sys/auth" {
  capabilities = ["read"]
}

path "sys/auth/approle" {
  capabilities = ["create", "read", "update", "delete", "sudo"]
}

path "sys/mounts/auth/approle" {
  capabilities = ["read"]
}

path "sys/mounts/auth/approle/tune" {
  capabilities = ["read", "update"]
}

path "auth/approle/role/credentials-runtime" {
  capabilities = ["create", "read", "update", "delete"]
}

path "auth/approle/role/credentials-rotator" {
  capabilities = ["create", "read", "update", "delete"]
}

# Reads the role ids, and makes no secret id.
path "auth/approle/role/+/role-id" {
  capabilities = ["read"]
}

path "sys/config/auditing/request-headers/X-Credentials-Batch-Id" {
  capabilities = ["create", "read", "update", "delete", "sudo"]
}

path "sys/config/auditing/request-headers/X-Request-Id" {
  capabilities = ["create", "read", "update", "delete", "sudo"]
}

path "sys/config/auditing/request-headers/Traceparent" {
  capabilities = ["create", "read", "update", "delete", "sudo"]
}

# With `audit_file`.
path "sys/audit" {
  capabilities = ["read", "sudo"]
}

path "sys/audit/file" {
  capabilities = ["create", "update", "delete", "sudo"]
}

# With `oidc`.
path "identity/oidc/config" {
  capabilities = ["create", "read", "update"]
}

path "identity/oidc/key/vault-credentials" {
  capabilities = ["create", "read", "update", "delete"]
}

path "identity/oidc/role/vault-credentials-*" {
  capabilities = ["create", "read", "update", "delete"]
}

path "sys/policies/acl/vault-credentials-mint-*" {
  capabilities = ["create", "read", "update", "delete"]
}

# With `kubernetes`.
path "sys/auth/kubernetes" {
  capabilities = ["create", "read", "update", "delete", "sudo"]
}

path "sys/mounts/auth/kubernetes" {
  capabilities = ["read"]
}

path "sys/mounts/auth/kubernetes/tune" {
  capabilities = ["read", "update"]
}

path "auth/kubernetes/config" {
  capabilities = ["create", "read", "update"]
}

path "auth/kubernetes/role/credentials-runtime" {
  capabilities = ["create", "read", "update", "delete"]
}

path "auth/kubernetes/role/credentials-rotator" {
  capabilities = ["create", "read", "update", "delete"]
}
