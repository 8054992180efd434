"""The domain model of jobs, targets and executions: pure, without I/O, clock or framework."""
