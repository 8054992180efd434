"""Schedules: drafts from callers, and their due times."""
