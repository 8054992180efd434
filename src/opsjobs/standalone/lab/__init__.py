"""Machines to try on: SSH servers on loopback, a port each, that run commands as the current user."""
