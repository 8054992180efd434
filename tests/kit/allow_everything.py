"""Whoever asks may: for tests that are not about rights."""

from __future__ import annotations

from opsjobs.model.access import Principal, PrincipalKind


async def everybody(name: str, kind: PrincipalKind) -> Principal:
    """An administrator of any name."""
    return Principal.of_role(name, "admin", kind)
