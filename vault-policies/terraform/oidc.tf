locals {
  oidc_roles = var.oidc == null ? {} : module.description.oidc.templates
}

resource "vault_identity_oidc" "issuer" {
  count = try(var.oidc.set_issuer, false) ? 1 : 0

  issuer = var.oidc.issuer

  depends_on = [vault_audit.file]
}

resource "vault_identity_oidc_key" "callers" {
  count = var.oidc == null ? 0 : 1

  name             = module.description.oidc.name
  algorithm        = module.description.oidc.key.algorithm
  rotation_period  = module.description.oidc.key.rotation_period
  verification_ttl = module.description.oidc.key.verification_ttl

  depends_on = [vault_audit.file]
}

resource "vault_identity_oidc_key_allowed_client_id" "callers" {
  count = length(vault_identity_oidc_key.callers)

  key_name          = vault_identity_oidc_key.callers[0].name
  allowed_client_id = module.description.oidc.audience
}

# One role, one value: a token carries exactly the role it was asked for.
resource "vault_identity_oidc_role" "caller" {
  for_each = local.oidc_roles

  name      = "${module.description.oidc.name}-${each.key}"
  key       = vault_identity_oidc_key.callers[0].name
  client_id = module.description.oidc.audience
  ttl       = module.description.oidc.ttl
  template  = each.value
}

resource "vault_policy" "mint" {
  for_each = vault_identity_oidc_role.caller

  name   = "${module.description.oidc.name}-mint-${each.key}"
  policy = "path \"identity/oidc/token/${each.value.name}\" {\n  capabilities = [\"read\"]\n}\n"
}
