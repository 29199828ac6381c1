"""A real Vault and a real Postgres on this machine, for `vault-credentials run` and for the tests. Not for production.

Reading order: `stack` joins the parts; `vault_server` and `postgres_server` start them; `provisioning` is what a
production Vault would be given too.
"""
