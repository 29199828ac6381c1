variable "installation_id" {
  description = <<-EOT
    Ties this Vault to one Postgres database: what `SELECT id FROM installation` answers there after
    `vault-credentials migrate`. Not a secret. It is written once and never changed.
  EOT
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", var.installation_id))
    error_message = "installation_id must be a UUID in lower case, as Postgres prints it."
  }
}

variable "transit_mount" {
  description = "Where the transit secrets engine is mounted."
  type        = string
  default     = "transit"
  nullable    = false

  validation {
    condition     = can(regex("^[\\w.-]+(/[\\w.-]+)*$", var.transit_mount))
    error_message = "A mount may hold letters, digits, `_`, `.`, `-` and, between them, `/`."
  }
}

variable "kv_mount" {
  description = "Where the KV v2 secrets engine is mounted."
  type        = string
  default     = "credentials"
  nullable    = false

  validation {
    condition     = can(regex("^[\\w.-]+(/[\\w.-]+)*$", var.kv_mount))
    error_message = "A mount may hold letters, digits, `_`, `.`, `-` and, between them, `/`."
  }

  validation {
    condition     = !startswith("${var.kv_mount}/", "${var.transit_mount}/") && !startswith("${var.transit_mount}/", "${var.kv_mount}/")
    error_message = "kv_mount and transit_mount must be two mounts, neither inside the other."
  }
}

variable "key_prefix" {
  description = "What the names of the transit keys begin with. The policies hold for every key of that beginning."
  type        = string
  default     = "credentials-"
  nullable    = false

  validation {
    condition     = can(regex("^[\\w.-]+$", var.key_prefix))
    error_message = "key_prefix may hold letters, digits, `_`, `.` and `-`, and at least one of them."
  }
}

variable "extra_credential_types" {
  description = "Types of credentials beyond Alpaca's and Polygon's, as the providers in `CREDENTIALS_EXTRA_PROVIDERS` name them. Each gets a key of its own, and the roles' rules about it."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition = alltrue([
      for each in var.extra_credential_types :
      can(regex("^[a-z][a-z0-9-]{0,30}[a-z0-9]$", each)) && !contains(["alpaca", "polygon", "idempotency", "events"], each)
    ])
    error_message = "A type's name is 2 to 32 lower-case letters, digits and `-`, and none that is taken: alpaca, polygon, idempotency, events."
  }
}

variable "role_names" {
  description = "What each role's policy is called, and the login role of the runtime and the rotator."
  type = object({
    runtime  = optional(string, "credentials-runtime")
    rotator  = optional(string, "credentials-rotator")
    operator = optional(string, "credentials-operator")
    auditor  = optional(string, "credentials-auditor")
  })
  default  = {}
  nullable = false

  validation {
    # Vault keeps policies' names in lower case, so any other would differ with every plan.
    condition     = alltrue([for name in values(var.role_names) : can(regex("^[a-z0-9_.-]+$", name))])
    error_message = "A role's name may hold lower case letters, digits, `_`, `.` and `-`."
  }

  validation {
    condition     = length(distinct(values(var.role_names))) == length(var.role_names)
    error_message = "Each role needs a name of its own."
  }
}

variable "auto_rotate_period" {
  description = <<-EOT
    Seconds after which Vault rotates a credential type's key by itself, set when the key is made; 0: never. Afterwards
    it is the operators' to change (`operator.hcl`); where Vault has another period, a plan says so and changes nothing.
  EOT
  type        = number
  default     = 7776000 # 90 days
  nullable    = false

  validation {
    condition     = var.auto_rotate_period == 0 || (var.auto_rotate_period >= 3600 && floor(var.auto_rotate_period) == var.auto_rotate_period)
    error_message = "auto_rotate_period must be 0 or whole seconds, an hour (3600) at least."
  }
}

variable "approle" {
  description = <<-EOT
    The login of the runtime and the rotator by AppRole; null: none.
    `mount`: where. `create_mount = false`: the mount is there already and stays somebody else's.
    `secret_id_bound_cidrs`, `token_bound_cidrs`: from where one may log in, and use the token; empty: anywhere.
  EOT
  type = object({
    mount                 = optional(string, "approle")
    create_mount          = optional(bool, true)
    secret_id_bound_cidrs = optional(set(string), [])
    token_bound_cidrs     = optional(set(string), [])
  })
  default = {}

  validation {
    condition     = var.approle == null || can(regex("^[\\w.-]+(/[\\w.-]+)*$", var.approle.mount))
    error_message = "A mount may hold letters, digits, `_`, `.`, `-` and, between them, `/`."
  }

  validation {
    condition = var.approle == null || alltrue([
      for each in setunion(try(var.approle.secret_id_bound_cidrs, []), try(var.approle.token_bound_cidrs, [])) : can(cidrhost(each, 0))
    ])
    error_message = "Addresses must be given as CIDR blocks, such as 10.1.0.0/16."
  }

  validation {
    condition     = var.approle != null || var.kubernetes != null
    error_message = "The service needs a way to log in: approle, kubernetes or both."
  }
}

variable "kubernetes" {
  description = <<-EOT
    The login of the runtime and the rotator by Kubernetes service account; null: none.
    `host`: the Kubernetes API's URL. `ca_cert`: its CA in PEM; null: the one of the pod that Vault runs in.
    `mount`: where. `create_mount = false`: mount and its configuration are there already and stay somebody else's
    (`host` and `ca_cert` are not used). `audience`: what the service accounts' JWTs must be for.
    `runtime`, `rotator`: the service accounts of each, by names and namespaces; `rotator = null`: it does not log in
    this way. There is no token_reviewer_jwt here, as it would be a secret in the state: Vault asks Kubernetes with its
    own service account, or with the one that logs in.
  EOT
  type = object({
    host         = optional(string)
    ca_cert      = optional(string)
    mount        = optional(string, "kubernetes")
    create_mount = optional(bool, true)
    audience     = optional(string)
    runtime = object({
      service_accounts = set(string)
      namespaces       = set(string)
    })
    rotator = optional(object({
      service_accounts = set(string)
      namespaces       = set(string)
    }))
  })
  default = null

  validation {
    condition     = var.kubernetes == null || can(regex("^[\\w.-]+(/[\\w.-]+)*$", var.kubernetes.mount))
    error_message = "A mount may hold letters, digits, `_`, `.`, `-` and, between them, `/`."
  }

  validation {
    condition     = var.kubernetes == null || try(!var.kubernetes.create_mount, false) || try(startswith(var.kubernetes.host, "https://"), false)
    error_message = "kubernetes.host must be given and begin with https://, as every login's JWT goes there."
  }

  validation {
    condition = var.kubernetes == null || alltrue(flatten([
      for each in [try(var.kubernetes.runtime, null), try(var.kubernetes.rotator, null)] : [
        length(each.service_accounts) > 0 && length(each.namespaces) > 0,
        !contains(each.service_accounts, "*") && !contains(each.namespaces, "*"),
      ] if each != null
    ]))
    error_message = "Service accounts and namespaces must be named, each of them; `*` would let others log in."
  }
}

variable "audit_file" {
  description = <<-EOT
    A file audit device; null: none is made here. Vault answers nothing while it can write to none of its audit devices.
    `file_path`: on Vault's own machine, writable for it; `stdout` where a container's output is collected.
    `path`: the device's name. `mode`: the file's permissions.
  EOT
  type = object({
    file_path = string
    path      = optional(string, "file")
    mode      = optional(string, "0600")
  })
  default = null

  validation {
    condition = var.audit_file == null || try(
      startswith(var.audit_file.file_path, "/") || contains(["stdout", "discard"], var.audit_file.file_path), false
    )
    error_message = "audit_file.file_path must be absolute, or `stdout` or `discard`."
  }

  validation {
    condition     = var.audit_file == null || can(regex("^0[0-7]{3}$", var.audit_file.mode))
    error_message = "audit_file.mode must be octal, such as 0600."
  }
}

variable "oidc" {
  description = <<-EOT
    Vault as issuer of the JWTs that callers show to the service; null: another issuer is used.
    `issuer`: Vault's URL as callers and the service reach it. It goes into `iss` of every identity token of this Vault,
    so with `set_issuer = false` it is taken to be set already.
    Each role gets a policy `vault-credentials-mint-<role>`, for the entities that may ask for its tokens: the claim
    `user` is the entity's metadata `user`.
  EOT
  type = object({
    issuer     = string
    set_issuer = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.oidc == null || can(regex("^https?://[^/?#]+(/[^?#]*[^/?#])?$", var.oidc.issuer))
    error_message = "oidc.issuer must be Vault's URL, without a slash at its end."
  }
}
