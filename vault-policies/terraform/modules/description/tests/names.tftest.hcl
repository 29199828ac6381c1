# Needs no provider and no Vault.

variables {
  transit_mount = "transit"
  kv_mount      = "credentials"
  key_prefix    = "credentials-"
  role_names = {
    runtime  = "credentials-runtime"
    rotator  = "credentials-rotator"
    operator = "credentials-operator"
    auditor  = "credentials-auditor"
  }
}

run "under_the_default_names_policies_are_the_files_to_the_letter" {
  command = plan

  assert {
    condition     = alltrue([for role, rules in output.policies : rules == file("${path.module}/../../../${role}.hcl")])
    error_message = "A policy differs from its file."
  }

  assert {
    condition     = length(output.policies) == 4
    error_message = "There are four roles."
  }
}

run "under_other_names_no_path_keeps_a_default_name" {
  command = plan

  variables {
    transit_mount = "team/keys"
    kv_mount      = "team/kv"
    key_prefix    = "prod."
    role_names    = { runtime = "a", rotator = "b", operator = "c", auditor = "d" }
  }

  assert {
    condition = length([
      for line in split("\n", join("\n", values(output.policies))) :
      line if can(regex("^path \"(transit|credentials)/|^path .*/credentials-", line))
    ]) == 0
    error_message = "A path has a default name."
  }

  assert {
    condition     = strcontains(output.policies.runtime, "path \"team/keys/decrypt/prod.alpaca\" {")
    error_message = "The runtime must decrypt under the keys of the prefix."
  }

  assert {
    condition     = strcontains(output.policies.auditor, "path \"sys/policies/acl/d\" {")
    error_message = "The auditor must see its own policy."
  }
}

# Each line is fitted once, so that a mount may bear another one's default name.
run "mounts_may_change_places" {
  command = plan

  variables {
    transit_mount = "credentials"
    kv_mount      = "transit"
  }

  assert {
    condition     = strcontains(output.policies.runtime, "path \"credentials/decrypt/credentials-alpaca\" {")
    error_message = "Decrypting is on the transit mount."
  }

  assert {
    condition     = strcontains(output.policies.runtime, "path \"transit/data/+/+\" {")
    error_message = "Ciphertext is on the KV mount."
  }
}

run "tokens_carry_the_role_they_were_asked_for_and_no_other" {
  command = plan

  assert {
    condition = alltrue([
      for role, template in output.oidc.templates :
      jsondecode(replace(template, "{{identity.entity.metadata.user}}", "null")) == { user = null, roles = [role] }
    ])
    error_message = "A template gives another role."
  }
}
