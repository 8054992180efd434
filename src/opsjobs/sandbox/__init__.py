"""The processes that judge texts: hostile text may crash or exhaust them, and nothing else."""
