# Without a Vault: what the options make.

mock_provider "vault" {}

variables {
  installation_id = "0b9f4a51-5c0e-4f1e-9f0a-3f4f8ad8a1c2"
}

run "under_other_names_everything_has_them" {
  command = plan

  variables {
    transit_mount = "keys"
    kv_mount      = "team/ciphertext"
    key_prefix    = "prod-"
    role_names    = { runtime = "prod-service", rotator = "prod-worker" }
    approle       = { mount = "machines" }
  }

  assert {
    condition     = vault_mount.transit.path == "keys" && vault_mount.kv.path == "team/ciphertext" && vault_auth_backend.approle[0].path == "machines"
    error_message = "A mount is elsewhere."
  }

  assert {
    condition     = output.key_names.alpaca == "prod-alpaca" && output.key_names.events == "prod-events"
    error_message = "A key has another prefix."
  }

  assert {
    condition     = output.policy_names == { runtime = "prod-service", rotator = "prod-worker", operator = "credentials-operator", auditor = "credentials-auditor" }
    error_message = "A policy has another name."
  }

  assert {
    condition     = strcontains(vault_policy.role["rotator"].policy, "path \"keys/rewrap/prod-alpaca\" {")
    error_message = "The rotator's policy must be about these keys."
  }
}

run "a_login_mount_that_is_there_already_is_left_alone" {
  command = plan

  variables {
    approle = { mount = "machines", create_mount = false }
  }

  assert {
    condition     = length(vault_auth_backend.approle) == 0 && vault_approle_auth_backend_role.this["runtime"].backend == "machines"
    error_message = "The roles go to the mount that is there."
  }
}

run "kubernetes_lets_in_the_named_service_accounts_alone" {
  command = plan

  variables {
    approle = null
    kubernetes = {
      host     = "https://kubernetes.default.svc"
      audience = "vault"
      runtime  = { service_accounts = ["credentials"], namespaces = ["trading"] }
      rotator  = { service_accounts = ["credentials-worker"], namespaces = ["trading"] }
    }
  }

  assert {
    condition     = length(vault_approle_auth_backend_role.this) == 0 && length(vault_auth_backend.approle) == 0
    error_message = "AppRole was turned off."
  }

  assert {
    condition = (
      vault_kubernetes_auth_backend_role.this["runtime"].bound_service_account_names == toset(["credentials"]) &&
      vault_kubernetes_auth_backend_role.this["rotator"].bound_service_account_names == toset(["credentials-worker"]) &&
      vault_kubernetes_auth_backend_role.this["rotator"].token_policies == toset(["credentials-rotator"]) &&
      vault_kubernetes_auth_backend_role.this["rotator"].token_no_default_policy
    )
    error_message = "Each service account gets its own role, and that role's policy alone."
  }

  assert {
    condition     = output.environment.kubernetes.rotator.CREDENTIALS_ROTATOR_VAULT_KUBERNETES_ROLE == "credentials-rotator"
    error_message = "The worker must be told its role."
  }
}

run "a_rotator_that_logs_in_by_approle_alone_has_no_kubernetes_role" {
  command = plan

  variables {
    kubernetes = {
      host    = "https://kubernetes.default.svc"
      runtime = { service_accounts = ["credentials"], namespaces = ["trading"] }
    }
  }

  assert {
    condition     = keys(vault_kubernetes_auth_backend_role.this) == ["runtime"]
    error_message = "Nobody asked for the rotator's."
  }
}

run "vault_issues_the_callers_tokens" {
  command = plan

  variables {
    oidc = { issuer = "https://vault.example.com:8200" }
  }

  assert {
    condition     = keys(vault_identity_oidc_role.caller) == ["auditor", "operator", "orchestrator", "user"]
    error_message = "There is a role for each kind of caller."
  }

  assert {
    condition     = vault_identity_oidc_key_allowed_client_id.callers[0].allowed_client_id == vault_identity_oidc_role.caller["user"].client_id
    error_message = "The key must sign for the audience."
  }

  assert {
    condition     = strcontains(vault_policy.mint["user"].policy, "path \"identity/oidc/token/vault-credentials-user\"")
    error_message = "Who may ask for a user's token may ask for that alone."
  }

  assert {
    condition     = vault_identity_oidc.issuer[0].issuer == "https://vault.example.com:8200"
    error_message = "The issuer is Vault's URL."
  }
}

run "an_issuer_that_is_set_already_is_left_alone" {
  command = plan

  variables {
    oidc = { issuer = "https://vault.example.com:8200", set_issuer = false }
  }

  assert {
    condition     = length(vault_identity_oidc.issuer) == 0
    error_message = "All of a Vault's identity tokens carry its issuer."
  }
}

run "the_audit_log_is_readable_for_vault_alone" {
  command = plan

  variables {
    audit_file = { file_path = "/vault/logs/audit.log" }
  }

  assert {
    condition     = vault_audit.file[0].options == tomap({ file_path = "/vault/logs/audit.log", mode = "0600" })
    error_message = "The audit log is Vault's alone."
  }
}
