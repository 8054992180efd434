"""Credentials: stored sealed, shown without their secrets, opened only for a session."""

from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.keys import KeyRotation, find_missing_keys
from opsjobs.store.vault.rows import CREDENTIALS, StoredCredential, check_rotatable

__all__ = [
    "CREDENTIALS",
    "KeyRotation",
    "StoredCredential",
    "Vault",
    "check_rotatable",
    "find_missing_keys",
]
