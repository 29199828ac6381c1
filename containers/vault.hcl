# The Vault of docker-compose.yml. Its certificate and key are made by the job `prepare`, in a volume.
ui            = true
api_addr      = "https://vault:8200"
cluster_addr  = "https://127.0.0.1:8201"
log_level     = "warn"
disable_mlock = true # as HashiCorp advises with raft, whose storage is a mapped file

storage "raft" {
  path                   = "/vault/file"
  node_id                = "vault"
  performance_multiplier = 1 # a lone node has nobody to wait for before it elects itself
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "127.0.0.1:8201"
  tls_cert_file   = "/vault/tls/vault.pem"
  tls_key_file    = "/vault/tls/vault.key"
  tls_min_version = "tls12"
}
