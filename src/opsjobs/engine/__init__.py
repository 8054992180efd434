"""What moves: the door where executions enter, the workers that perform them, and the loops that mend and tell."""
