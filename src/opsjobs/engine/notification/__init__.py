"""Notifications: rules applied to committed events, messages sent over channels."""
