"""An authorization that allows everything, for tests that are not about authorization."""

from __future__ import annotations

from opsjobs.model.access import Principal, PrincipalKind


async def everybody(name: str, kind: PrincipalKind) -> Principal:
    """An administrator of any name."""
    return Principal.of_role(name, "admin", kind)
