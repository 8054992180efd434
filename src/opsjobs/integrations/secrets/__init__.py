"""Secrets in external stores: HashiCorp Vault and OpenBao, over HTTP."""
