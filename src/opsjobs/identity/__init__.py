"""Authentication: verify tokens of every kind, check passwords, issue local tokens."""
