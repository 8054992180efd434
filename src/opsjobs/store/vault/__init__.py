"""Credentials: stored sealed, shown without their secrets, opened only for a session."""
