"""The schema as numbered steps; `upgrade` runs them under one advisory lock."""
