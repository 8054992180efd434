"""Secrets that others keep: HashiCorp Vault and OpenBao, over HTTP."""
