# The runtime and the rotator log in by themselves. The operator and the auditor are people: their policies go to
# whoever the organisation's own login lets in.

locals {
  services = toset(["runtime", "rotator"])

  kubernetes_accounts = var.kubernetes == null ? {} : {
    for role in local.services : role => var.kubernetes[role] if var.kubernetes[role] != null
  }
}

resource "vault_auth_backend" "approle" {
  count = try(var.approle.create_mount, false) ? 1 : 0

  type = "approle"
  path = var.approle.mount

  depends_on = [vault_audit.file]
}

# No secret id is made here: it would be a secret in the state.
resource "vault_approle_auth_backend_role" "this" {
  for_each = var.approle == null ? [] : local.services

  backend   = try(vault_auth_backend.approle[0].path, var.approle.mount)
  role_name = var.role_names[each.key]

  secret_id_num_uses    = module.description.approle.secret_id_num_uses
  secret_id_ttl         = module.description.approle.secret_id_ttl
  secret_id_bound_cidrs = var.approle.secret_id_bound_cidrs

  token_policies          = [vault_policy.role[each.key].name]
  token_no_default_policy = module.description.token.token_no_default_policy
  token_ttl               = module.description.token.token_ttl
  token_max_ttl           = module.description.token.token_max_ttl
  token_bound_cidrs       = var.approle.token_bound_cidrs
}

resource "vault_auth_backend" "kubernetes" {
  count = try(var.kubernetes.create_mount, false) ? 1 : 0

  type = "kubernetes"
  path = var.kubernetes.mount

  depends_on = [vault_audit.file]
}

resource "vault_kubernetes_auth_backend_config" "this" {
  count = length(vault_auth_backend.kubernetes)

  backend            = vault_auth_backend.kubernetes[0].path
  kubernetes_host    = var.kubernetes.host
  kubernetes_ca_cert = var.kubernetes.ca_cert
}

resource "vault_kubernetes_auth_backend_role" "this" {
  for_each = local.kubernetes_accounts

  backend   = try(vault_auth_backend.kubernetes[0].path, var.kubernetes.mount)
  role_name = var.role_names[each.key]

  bound_service_account_names      = each.value.service_accounts
  bound_service_account_namespaces = each.value.namespaces
  audience                         = var.kubernetes.audience

  token_policies          = [vault_policy.role[each.key].name]
  token_no_default_policy = module.description.token.token_no_default_policy
  token_ttl               = module.description.token.token_ttl
  token_max_ttl           = module.description.token.token_max_ttl
}
