"""PostgreSQL, all of it."""
