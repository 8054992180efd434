"""Check texts in separate processes: a hostile text can crash or exhaust only these."""
