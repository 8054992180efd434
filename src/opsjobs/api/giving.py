"""Who gives rights away: nobody more than he holds himself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request

from opsjobs.api.auth import principal_of
from opsjobs.model.failures import Forbidden
from opsjobs.model.granting import GrantDraft, grants_of, may_give


def check_given(request: Request, given: Iterable[GrantDraft]) -> None:
    """Raises Forbidden where the caller gives what he does not hold."""
    giver = principal_of(request)
    if not all(may_give(giver, grant) for grant in grants_of(one.kept() for one in given)):
        raise Forbidden("more_than_held", f"{giver.name} gives more than {giver.name} holds: ask somebody who holds it all.")


def check_holds(request: Request, name: str, kept: Iterable[Mapping[str, Any]]) -> None:
    """Raises Forbidden where the one whom the caller would change holds (`kept`) what the caller could not give."""
    caller = principal_of(request)
    if not all(may_give(caller, grant) for grant in grants_of(kept)):
        raise Forbidden("more_than_held", f"{name} holds more than {caller.name} holds: ask somebody who holds it all.")
