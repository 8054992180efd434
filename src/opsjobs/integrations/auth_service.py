"""The platform's Auth Service: introspect a token (POST /api/auth/validate)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.integrations.json_client import JsonClient, ServiceUnavailable

VALIDATE = "/api/auth/validate"
# Of the platform's generations some say it in the body, some by the status.
_NO = (401, 403)


class AuthService:
    """Asked for each token that is not ours. `url`: its base address."""

    def __init__(self, asking: JsonClient, url: str) -> None:
        self._asking = asking
        self._url = url.rstrip("/") + VALIDATE

    async def validate(self, token: str) -> Mapping[str, Any] | None:
        """Return the claims of a valid token, None for an invalid one.

        Both forms of the platform's answer are understood. Raises ServiceUnavailable.
        """
        try:
            told = await self._asking.post(self._url, {"token": token})
        except ServiceUnavailable as away:
            if away.status in _NO:
                return None
            raise
        if not isinstance(told, dict) or not isinstance(told.get("valid"), bool):
            raise ServiceUnavailable(f"{self._url} does not say whether the token is valid")
        if not told["valid"]:
            return None
        return _claims(told)


def _claims(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of `{valid, user, roles, permissions}`.

    `user` is a name, an id, or an object with the older claims.
    """
    user = told.get("user")
    if isinstance(user, dict):
        claims = {
            name: user[name]
            for name in ("sub", "user_id", "username", "role", "roles", "permissions")
            if name in user
        }
        claims.setdefault("user_id", user.get("id"))
    else:
        claims = {"sub": user}
    of_answer = ("roles", "role", "permissions", "exp", "scope_labels")
    return {**claims, **{name: told[name] for name in of_answer if told.get(name) is not None}}
