"""Perform claimed target runs: actions, attempts, transfers, output and the run's journal."""
