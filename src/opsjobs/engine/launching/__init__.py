"""Launch executions: validation, rights, safety check, approvals, preview and retries."""
