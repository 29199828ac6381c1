# Without a Vault: what is planned where nothing but the installation's id is given.

mock_provider "vault" {}

variables {
  installation_id = "0b9f4a51-5c0e-4f1e-9f0a-3f4f8ad8a1c2"
}

run "keys_cannot_leave_vault_and_cannot_be_deleted" {
  command = plan

  assert {
    condition     = toset([for each in vault_transit_secret_backend_key.this : each.name]) == toset(["credentials-alpaca", "credentials-polygon", "credentials-idempotency", "credentials-events"])
    error_message = "There is a key for each credential type, one that compares requests and one that signs."
  }

  assert {
    condition = alltrue([
      for each in vault_transit_secret_backend_key.this :
      !each.exportable && !each.allow_plaintext_backup && !each.deletion_allowed
    ])
    error_message = "No key may be exported, backed up or deleted."
  }
}

run "credentials_are_under_derived_keys_that_rotate" {
  command = plan

  assert {
    condition = alltrue([
      for type in ["alpaca", "polygon"] :
      vault_transit_secret_backend_key.this[type].type == "aes256-gcm96" &&
      vault_transit_secret_backend_key.this[type].derived &&
      vault_transit_secret_backend_key.this[type].auto_rotate_period == 7776000
    ])
    error_message = "A credential type's key is aes256-gcm96, derived, and rotates."
  }

  assert {
    condition     = vault_transit_secret_backend_key.this["idempotency"].type == "hmac" && vault_transit_secret_backend_key.this["idempotency"].key_size == 32
    error_message = "Requests are compared by HMAC."
  }

  assert {
    condition     = vault_transit_secret_backend_key.this["events"].type == "ed25519"
    error_message = "Seals are signed with ed25519."
  }
}

run "kv_refuses_blind_writes_and_keeps_enough_versions" {
  command = plan

  assert {
    condition     = vault_kv_secret_backend_v2.kv.cas_required && vault_kv_secret_backend_v2.kv.max_versions == 100
    error_message = "KV must ask for check-and-set and keep 100 versions."
  }

  assert {
    condition     = vault_kv_secret_v2.installation.options.cas == "0"
    error_message = "A mount that is somebody's must not be claimed again."
  }
}

run "services_get_their_own_policy_and_not_the_default_one" {
  command = plan

  assert {
    condition = alltrue([
      for role, each in vault_approle_auth_backend_role.this :
      each.token_policies == toset(["credentials-${role}"]) && each.token_no_default_policy && each.token_max_ttl == 86400
    ])
    error_message = "A login's token has its own policy alone."
  }

  assert {
    condition     = keys(vault_approle_auth_backend_role.this) == ["rotator", "runtime"]
    error_message = "People do not log in by AppRole."
  }
}

run "what_nobody_asked_for_is_not_made" {
  command = plan

  assert {
    condition = (
      length(vault_audit.file) == 0 && length(vault_identity_oidc_key.callers) == 0 &&
      length(vault_policy.mint) == 0 && length(vault_auth_backend.kubernetes) == 0 && length(vault_identity_oidc.issuer) == 0
    )
    error_message = "Audit device, OIDC and Kubernetes are options."
  }
}

run "the_ids_are_logged_in_the_clear" {
  command = plan

  assert {
    condition = (
      toset([for header in vault_audit_request_header.this : header.name]) ==
      toset(["X-Credentials-Batch-Id", "X-Request-Id", "Traceparent"]) &&
      !anytrue([for header in vault_audit_request_header.this : header.hmac])
    )
    error_message = "Without them no event or log line of the service joins an entry of Vault's."
  }
}
