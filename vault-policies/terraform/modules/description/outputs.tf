output "policies" {
  description = "Each role's policy, fitted to the names: runtime, rotator, operator, auditor."
  value       = local.policies
}

output "credential_types" {
  description = "The types of credentials; each has a transit key of its own."
  value       = toset(local.types)
}

output "credential_key" {
  description = "Settings of a credential type's transit key."
  value       = local.described.keys.credential_type
}

output "idempotency_key" {
  description = "Settings of the transit key that compares request bodies under one Idempotency-Key."
  value       = local.described.keys.idempotency
}

output "events_key" {
  description = "Settings of the transit key that signs the seals over the events."
  value       = local.described.keys.events
}

output "kv" {
  description = "Settings of the KV v2 mount."
  value       = local.described.kv
}

output "approle" {
  description = "Settings of an AppRole role's secret ids."
  value       = local.described.approle
}

output "token" {
  description = "Settings of the tokens that a login gives out."
  value       = local.described.token
}

output "audited_headers" {
  description = "The request headers that Vault's audit devices log in the clear."
  value       = local.described.audited_headers
}

output "oidc" {
  description = "Settings of Vault as issuer of the callers' JWTs; `templates` holds each role's, by the role's name."
  value = merge(local.described.oidc, {
    templates = {
      for role in local.described.oidc.roles : role => format(
        "{\"%s\": {{identity.entity.metadata.user}}, \"roles\": %s}", local.described.oidc.user_claim, jsonencode([role])
      )
    }
  })
}
