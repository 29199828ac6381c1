terraform {
  required_version = ">= 1.9" # validation of one variable against another

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.0, < 6.0"
    }
  }
}
