locals {
  approle_login = {
    for role in local.services : role => {
      login      = "approle"
      auth_mount = vault_approle_auth_backend_role.this[role].backend
      role_id    = vault_approle_auth_backend_role.this[role].role_id
    } if var.approle != null
  }
  kubernetes_login = {
    for role in keys(local.kubernetes_accounts) : role => {
      login           = "kubernetes"
      auth_mount      = vault_kubernetes_auth_backend_role.this[role].backend
      kubernetes_role = vault_kubernetes_auth_backend_role.this[role].role_name
    }
  }
  variable_prefixes = { runtime = "CREDENTIALS_VAULT_", rotator = "CREDENTIALS_ROTATOR_VAULT_" }

  environment = merge(
    {
      CREDENTIALS_TRANSIT_MOUNT      = vault_mount.transit.path
      CREDENTIALS_TRANSIT_KEY_PREFIX = var.key_prefix
      CREDENTIALS_KV_MOUNT           = vault_mount.kv.path
    },
    var.oidc == null ? {} : {
      CREDENTIALS_OIDC_ISSUER     = "${var.oidc.issuer}/v1/identity/oidc"
      CREDENTIALS_OIDC_AUDIENCE   = module.description.oidc.audience
      CREDENTIALS_OIDC_USER_CLAIM = module.description.oidc.user_claim
    },
  )
}

output "transit_mount" {
  description = "Mount of the transit secrets engine."
  value       = vault_mount.transit.path
}

output "kv_mount" {
  description = "Mount of the KV v2 secrets engine."
  value       = vault_mount.kv.path
}

output "key_names" {
  description = "Names of the transit keys: by credential type, and `idempotency` and `events`."
  value       = { for each, key in vault_transit_secret_backend_key.this : each => key.name }
}

output "policy_names" {
  description = "Names of the policies of the runtime, rotator, operator and auditor."
  value       = { for role, policy in vault_policy.role : role => policy.name }
}

output "mint_policy_names" {
  description = "With `oidc`: the policies of who may ask Vault for a caller's token, by the caller's role."
  value       = { for role, policy in vault_policy.mint : role => policy.name }
}

output "role_ids" {
  description = "With `approle`: the role ids of the runtime and the rotator. No secrets: a login needs a secret id too."
  value       = { for role, each in vault_approle_auth_backend_role.this : role => each.role_id }
}

output "environment" {
  description = <<-EOT
    The environment variables of the service and its worker: `approle.runtime`, `approle.rotator`,
    `kubernetes.runtime`, `kubernetes.rotator`, as far as these logins are made. The rotator's names are its own, so
    that one process may be given both. Missing are VAULT_ADDR, the databases' URLs and, with AppRole, the secret ids.
  EOT
  value = {
    for login, roles in { approle = local.approle_login, kubernetes = local.kubernetes_login } : login => {
      for role, settings in roles : role => merge(local.environment, {
        for name, value in settings : "${local.variable_prefixes[role]}${upper(name)}" => value
      })
    }
  }
}
