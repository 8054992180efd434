"""Telemetry of a process: logs, metrics and traces."""
