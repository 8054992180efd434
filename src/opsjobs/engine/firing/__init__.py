"""Fire schedules: turn due times into firings, and firings into executions."""
