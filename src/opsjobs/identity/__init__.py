"""Authentication: verify tokens of every kind, check passwords, issue our own tokens."""
