variable "transit_mount" {
  description = "Mount of the transit secrets engine."
  type        = string
  nullable    = false
}

variable "kv_mount" {
  description = "Mount of the KV v2 secrets engine."
  type        = string
  nullable    = false
}

variable "key_prefix" {
  description = "What the names of the transit keys begin with."
  type        = string
  nullable    = false
}

variable "role_names" {
  description = "What each role's policy, and where it logs in by itself its login role, is called."
  type = object({
    runtime  = string
    rotator  = string
    operator = string
    auditor  = string
  })
  nullable = false
}

variable "extra_credential_types" {
  description = "Types of credentials beyond provisioning.json's."
  type        = set(string)
  default     = []
  nullable    = false
}
