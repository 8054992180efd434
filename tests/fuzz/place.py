"""Who asks: two users beside nobody."""

from __future__ import annotations

import httpx2


def tokens(http: httpx2.Client) -> tuple[str, str]:
    """Of an administrator, and of one who may only look."""
    found = []
    for name, role in (("fuzz-admin", "admin"), ("fuzz-viewer", "viewer")):
        answer = http.post("/api-keys", json={"name": name, "role": role})
        assert answer.status_code == 201, answer.text
        found.append(answer.json()["token"])
    return found[0], found[1]
