"""What jobs, targets and executions are, and what may happen to them: pure, without I/O, clock or framework."""
