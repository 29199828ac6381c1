# A key is made once and never changed here. Afterwards its versions are the service's and the operators' to rotate, to
# retire and to trim. The provider's update of any setting sends all of them, as they were when the plan was made: it
# would lower a `min_decryption_version` that the service has raised since, and retired versions would open again.
#
# What a key must never get (`exportable`, `allow_plaintext_backup`, `deletion_allowed`) makes every plan fail instead.
#
# `prevent_destroy` is gone with the module's block, if someone takes that out. Then Vault refuses to delete a key, and
# because the keys depend on them, the mounts and the installation's record are not destroyed either.

locals {
  keys = merge(
    {
      for each in module.description.credential_types :
      each => merge(module.description.credential_key, { auto_rotate_period = var.auto_rotate_period })
    },
    {
      idempotency = module.description.idempotency_key
      events      = module.description.events_key
    },
  )
}

resource "vault_transit_secret_backend_key" "this" {
  for_each = local.keys

  backend            = vault_mount.transit.path
  name               = "${var.key_prefix}${each.key}"
  type               = each.value.type
  derived            = lookup(each.value, "derived", false)
  key_size           = lookup(each.value, "key_size", null)
  auto_rotate_period = lookup(each.value, "auto_rotate_period", 0)

  allow_plaintext_backup = false
  deletion_allowed       = false
  exportable             = false

  depends_on = [vault_kv_secret_v2.installation]

  lifecycle {
    prevent_destroy = true

    ignore_changes = [
      allow_plaintext_backup,
      auto_rotate_period,
      deletion_allowed,
      exportable,
      min_decryption_version,
      min_encryption_version,
    ]

    postcondition {
      condition     = !self.exportable && !self.allow_plaintext_backup
      error_message = "Transit key ${self.name} can be exported or backed up in plaintext, which cannot be taken back: see README.md of this module."
    }

    postcondition {
      condition     = !self.deletion_allowed
      error_message = "Transit key ${self.name} may be deleted. To put that right: vault write ${self.backend}/keys/${self.name}/config deletion_allowed=false"
    }
  }
}

check "auto_rotate_period" {
  assert {
    condition = alltrue([
      for each in module.description.credential_types :
      vault_transit_secret_backend_key.this[each].auto_rotate_period == var.auto_rotate_period
    ])
    error_message = "A credential type's key has another auto_rotate_period in Vault. Operators set it there once the key is made; Terraform does not change it."
  }
}
