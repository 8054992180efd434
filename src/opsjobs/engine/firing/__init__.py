"""Fire schedules: turn due moments into firings, and firings into executions."""
