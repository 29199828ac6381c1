# What a Vault needs for this service, under the names that the caller chose. It needs no provider and makes nothing:
# the policy files and provisioning.json, which service/localstack reads as well, are the one description of it all.

terraform {
  required_version = ">= 1.9"
}

locals {
  folder    = "${path.module}/../../.."
  described = jsondecode(file("${local.folder}/provisioning.json"))
  types     = concat(local.described.credential_types, sort(var.extra_credential_types))
  files     = { for role in keys(var.role_names) : role => file("${local.folder}/${role}.hcl") }

  # A type that a file doesn't name has the rules about alpaca's key there, each with its own key's name.
  lines = {
    for role, text in local.files : role => split("\n", join("\n\n", flatten([
      for rule in split("\n\n", text) : concat([rule], [
        for type in local.types :
        replace(replace(rule, "/(?m)^#.*\\n/", ""), "//credentials-alpaca/", "/credentials-${type}")
        if strcontains(replace(rule, "/(?m)^#.*\\n/", ""), "/credentials-alpaca") &&
        length(regexall("/credentials-${type}[\"/]", text)) == 0
      ])
    ])))
  }

  # Each line that opens a rule, by its path's segments.
  paths = {
    for line in distinct(flatten(values(local.lines))) :
    line => split("/", regex("^path \"([^\"]+)\"", line)[0]) if startswith(line, "path \"")
  }

  # service/localstack/policies.py fits the same files for the local stack; tests/terraform compares the two.
  fitted = {
    for line, segments in local.paths : line => join("/",
      segments[0] == "transit" ? concat([var.transit_mount], [
        for each in slice(segments, 1, length(segments)) :
        startswith(each, "credentials-") ? "${var.key_prefix}${trimprefix(each, "credentials-")}" : each
      ]) :
      segments[0] == "credentials" ? concat([var.kv_mount], slice(segments, 1, length(segments))) :
      # A role's policy, by its name.
      [
        for each in segments :
        startswith(each, "credentials-") ? lookup(var.role_names, trimprefix(each, "credentials-"), each) : each
      ]
    )
  }

  policies = {
    for role, lines in local.lines : role => join("\n", [
      for line in lines : contains(keys(local.fitted), line) ? "path \"${local.fitted[line]}\" {" : line
    ])
  }
}
