"""Schedules and their firings: stored, fired, launched and listed."""
