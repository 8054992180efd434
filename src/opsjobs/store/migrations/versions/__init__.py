"""The steps of the schema, each with its SQL beside it."""
