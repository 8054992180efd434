"""override_safety: who may say it, and that a reason goes with it."""

from __future__ import annotations

from fastapi import Request

from opsjobs.api.auth import principal_of
from opsjobs.model import approval
from opsjobs.model.api_model import Overriding


def check_override(request: Request, draft: Overriding) -> None:
    """Raises Forbidden where something is overridden by who may not, Invalid where it has no reason."""
    if draft.override_safety:
        approval.check_override(principal_of(request), draft.reason)
