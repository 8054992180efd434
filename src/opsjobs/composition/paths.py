"""The paths of the server that its services name: of the API, its logins, and the console."""

from __future__ import annotations

API = "/api/v1"
OIDC_LOGIN = f"{API}/auth/oidc"
"""The path at which a browser begins a login at the OpenID Connect provider."""
OIDC_CALLBACK = f"{OIDC_LOGIN}/callback"
CONSOLE = "/console/"
