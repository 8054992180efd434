"""The migrations of the schema, each with its SQL next to it."""
