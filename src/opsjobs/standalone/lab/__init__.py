"""The lab: SSH servers on loopback, one port each, that run commands as the current user."""
