# Before all else, so that its log misses nothing. Beside a first device that is being enabled Vault would fail other
# requests once they are done, and the provider would make the same thing again.
resource "vault_audit" "file" {
  count = var.audit_file == null ? 0 : 1

  type = "file"
  path = var.audit_file.path

  options = {
    file_path = var.audit_file.file_path
    mode      = var.audit_file.mode
  }
}

# Random ids, logged in the clear: they join events and log lines of the service with Vault's own record.
resource "vault_audit_request_header" "this" {
  for_each = module.description.audited_headers

  name = each.value.name
  hmac = each.value.hmac

  depends_on = [vault_audit.file]
}

moved {
  from = vault_audit_request_header.batch_id
  to   = vault_audit_request_header.this["batch_id"]
}
