"""An authorization that allows everything, for tests that are not about authorization."""

from __future__ import annotations

from opsjobs.model.access import Principal
from opsjobs.model.identity import Identity


async def as_administrator(identity: Identity) -> Principal:
    """Return the identity as an administrator, whatever its name."""
    assert identity.kind != "system"
    return Principal.of_role(identity.name, "admin", identity.kind)
