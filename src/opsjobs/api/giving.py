"""Who gives rights away: nobody more than he holds himself."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request

from opsjobs.api.auth import principal_of
from opsjobs.model.failures import Forbidden
from opsjobs.model.granting import GrantDraft, grants_of, may_give


def check_given(request: Request, given: Iterable[GrantDraft]) -> None:
    """Raises Forbidden where the caller gives what he does not hold."""
    giver = principal_of(request)
    if not all(may_give(giver, grant) for grant in grants_of(one.kept() for one in given)):
        raise Forbidden("more_than_held", f"{giver.name} gives more than {giver.name} holds: ask somebody who holds it all.")
