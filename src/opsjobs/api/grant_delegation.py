"""Who gives rights away: nobody more than he holds himself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from opsjobs.api.auth import principal_of
from opsjobs.model.access import EVERYTHING
from opsjobs.model.errors import FieldError, Forbidden
from opsjobs.model.grants import GrantDraft, grants_of, may_give

ReuseName = Annotated[
    bool,
    Field(description="The name was another one's before, and what that one left is to be the new one's. For administrators."),
]


def check_given(request: Request, given: Iterable[GrantDraft]) -> None:
    """Raises Forbidden where the caller gives what he does not hold."""
    giver = principal_of(request)
    if not all(may_give(giver, grant) for grant in grants_of(one.kept() for one in given)):
        raise Forbidden("more_than_held", f"{giver.name} gives more than {giver.name} holds: ask somebody who holds it all.")


def check_reuse_name(request: Request, *, reuse_name: bool) -> None:
    """Raises Forbidden where the caller says so and may not everything: nobody knows what the one before left."""
    caller = principal_of(request)
    if reuse_name and not caller.reach(EVERYTHING).everywhere:
        detail = f"{caller.name} may not set reuse_name: only an administrator without a scope may. Choose another name."
        raise Forbidden("more_than_held", detail, errors=[FieldError("/reuse_name", detail, "more_than_held")])


def check_holds(request: Request, name: str, kept: Iterable[Mapping[str, Any]]) -> None:
    """Raises Forbidden where the one whom the caller would change holds (`kept`) what the caller could not give."""
    caller = principal_of(request)
    if not all(may_give(caller, grant) for grant in grants_of(kept)):
        raise Forbidden("more_than_held", f"{name} holds more than {caller.name} holds: ask somebody who holds it all.")
