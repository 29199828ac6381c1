# Without a Vault: what is refused before anything is planned.

mock_provider "vault" {}

variables {
  installation_id = "0b9f4a51-5c0e-4f1e-9f0a-3f4f8ad8a1c2"
}

run "an_installation_id_is_a_uuid" {
  command         = plan
  expect_failures = [var.installation_id]

  variables {
    installation_id = "production"
  }
}

run "the_keys_mount_holds_nothing_that_means_something_in_a_policy" {
  command         = plan
  expect_failures = [var.transit_mount]

  variables {
    transit_mount = "keys/*"
  }
}

run "the_ciphertexts_mount_holds_nothing_that_means_something_in_a_policy" {
  command         = plan
  expect_failures = [var.kv_mount]

  variables {
    kv_mount = "kv\" {}"
  }
}

run "two_engines_need_two_mounts" {
  command         = plan
  expect_failures = [var.kv_mount]

  variables {
    transit_mount = "team"
    kv_mount      = "team/kv"
  }
}

run "a_prefix_of_nothing_would_be_about_every_key" {
  command         = plan
  expect_failures = [var.key_prefix]

  variables {
    key_prefix = ""
  }
}

run "each_role_has_a_name_of_its_own" {
  command         = plan
  expect_failures = [var.role_names]

  variables {
    role_names = { runtime = "service", rotator = "service" }
  }
}

run "vault_keeps_policy_names_in_lower_case" {
  command         = plan
  expect_failures = [var.role_names]

  variables {
    role_names = { runtime = "Service" }
  }
}

run "vault_rotates_no_key_within_the_hour" {
  command         = plan
  expect_failures = [var.auto_rotate_period]

  variables {
    auto_rotate_period = 60
  }
}

run "a_period_of_zero_is_no_rotation" {
  command = plan

  variables {
    auto_rotate_period = 0
  }
}

run "the_service_needs_a_login" {
  command         = plan
  expect_failures = [var.approle]

  variables {
    approle = null
  }
}

run "addresses_are_cidr_blocks" {
  command         = plan
  expect_failures = [var.approle]

  variables {
    approle = { token_bound_cidrs = ["10.0.0.1-10.0.0.9"] }
  }
}

run "no_wildcard_lets_every_service_account_in" {
  command         = plan
  expect_failures = [var.kubernetes]

  variables {
    kubernetes = {
      host    = "https://kubernetes.default.svc"
      runtime = { service_accounts = ["*"], namespaces = ["trading"] }
    }
  }
}

run "logins_do_not_go_to_kubernetes_in_the_clear" {
  command         = plan
  expect_failures = [var.kubernetes]

  variables {
    kubernetes = {
      host    = "http://kubernetes.default.svc"
      runtime = { service_accounts = ["credentials"], namespaces = ["trading"] }
    }
  }
}

run "an_audit_log_has_an_absolute_path" {
  command         = plan
  expect_failures = [var.audit_file]

  variables {
    audit_file = { file_path = "audit.log" }
  }
}

run "an_issuer_is_a_url_without_a_slash_at_its_end" {
  command         = plan
  expect_failures = [var.oidc]

  variables {
    oidc = { issuer = "https://vault.example.com/" }
  }
}
