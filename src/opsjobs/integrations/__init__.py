"""Other services: small protocols, each with an HTTP client or a built-in implementation."""
