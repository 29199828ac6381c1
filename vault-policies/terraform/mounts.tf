resource "vault_mount" "transit" {
  path        = var.transit_mount
  type        = "transit"
  description = "Keys of the credentials service"

  depends_on = [vault_audit.file]

  lifecycle {
    prevent_destroy = true # with the mount go its keys
  }
}

resource "vault_mount" "kv" {
  path        = var.kv_mount
  type        = "kv"
  options     = { version = "2" }
  description = "Ciphertext of the credentials service"

  depends_on = [vault_audit.file]

  lifecycle {
    prevent_destroy = true # with the mount goes every ciphertext
  }
}

resource "vault_kv_secret_backend_v2" "kv" {
  mount        = vault_mount.kv.path
  cas_required = module.description.kv.cas_required
  max_versions = module.description.kv.max_versions
}

# Claims the mount for one database: `cas = 0` is refused where there is a record already, whoever wrote it. (Among the
# options: Vault does not look at the provider's argument `cas`.)
resource "vault_kv_secret_v2" "installation" {
  mount     = vault_kv_secret_backend_v2.kv.mount
  name      = "installation"
  options   = { cas = 0 }
  data_json = jsonencode({ id = var.installation_id })

  lifecycle {
    prevent_destroy = true
    # What was claimed stays claimed; the look-up below says so if the variable differs.
    ignore_changes = [options, data_json]
  }
}

# The resource above does not read its data back, so it would not notice another database's id.
data "vault_generic_secret" "installation" {
  path                  = "${vault_kv_secret_v2.installation.mount}/${vault_kv_secret_v2.installation.name}"
  with_lease_start_time = false

  depends_on = [vault_kv_secret_v2.installation] # looked up only once it is there

  lifecycle {
    postcondition {
      condition     = lookup(self.data, "id", null) == var.installation_id
      error_message = "The KV mount ${var.kv_mount} belongs to another database: its record `installation` differs from installation_id."
    }
  }
}
