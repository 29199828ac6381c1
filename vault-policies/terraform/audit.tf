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

# A random id, logged in the clear: it joins an event of the service with Vault's own record of the decryption.
resource "vault_audit_request_header" "batch_id" {
  name = module.description.audited_header.name
  hmac = module.description.audited_header.hmac

  depends_on = [vault_audit.file]
}
