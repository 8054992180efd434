"""The platform's services: profiles, an authenticated HTTP client, and their adapters."""
