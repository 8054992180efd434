"""Background loops: rescue, event publishing, retention, housekeeping, audit sealing."""
