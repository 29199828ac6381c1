module "description" {
  source = "./modules/description"

  transit_mount = var.transit_mount
  kv_mount      = var.kv_mount
  key_prefix    = var.key_prefix
  role_names    = var.role_names

  extra_credential_types = var.extra_credential_types
}
