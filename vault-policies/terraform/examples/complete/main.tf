# Vault for one installation of the service: AppRole for the service and its worker, a file audit device, and Vault as
# issuer of the callers' JWTs. A checkout can apply it as it is:
#
#   export VAULT_ADDR=https://vault.example.com:8200 VAULT_TOKEN=...
#   terraform init
#   terraform apply -var installation_id="$(psql "$OWNER_DATABASE_URL" -Atc 'SELECT id FROM installation')" \
#     -var vault_url="$VAULT_ADDR"

terraform {
  required_version = ">= 1.9"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.0, < 6.0"
    }
  }

  # The state holds no secret, but whoever can write it decides what the next apply does: keep it where only Terraform
  # writes (backend "s3", "gcs", "http", ...).
}

# VAULT_ADDR and VAULT_TOKEN, or any other login of the provider; see provisioner.hcl for the rights it needs.
provider "vault" {}

variable "installation_id" {
  description = "What `SELECT id FROM installation` answers in the service's database."
  type        = string
}

variable "vault_url" {
  description = "Vault's URL as callers and the service reach it."
  type        = string
}

variable "audit_log" {
  description = "Where Vault writes its audit log, on its own machine."
  type        = string
  default     = "/vault/logs/audit.log"
}

module "credentials" {
  source = "../.." # from elsewhere: "git::https://<where this repository is>//vault-policies/terraform?ref=<tag>"

  installation_id = var.installation_id
  audit_file      = { file_path = var.audit_log }
  oidc            = { issuer = var.vault_url }
}

output "environment" {
  description = "Environment variables of the service and its worker, beside VAULT_ADDR, the databases and secret ids."
  value       = module.credentials.environment
}
