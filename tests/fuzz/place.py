"""The callers: two users, and requests without a token."""

from __future__ import annotations

import httpx2


def tokens(http: httpx2.Client) -> tuple[str, str]:
    """The tokens of an administrator, and of a viewer."""
    found = []
    for name, role in (("fuzz-admin", "admin"), ("fuzz-viewer", "viewer")):
        answer = http.post("/api-keys", json={"name": name, "role": role})
        assert answer.status_code == 201, answer.text
        found.append(answer.json()["token"])
    return found[0], found[1]
