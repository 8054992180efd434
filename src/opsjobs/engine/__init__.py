"""Execution engine: launching, the workers, firing of schedules, and background loops."""
