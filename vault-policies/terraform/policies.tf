resource "vault_policy" "role" {
  for_each = module.description.policies

  name   = var.role_names[each.key]
  policy = each.value

  depends_on = [vault_audit.file]
}
