module vault-credentials/load-generator

go 1.22
