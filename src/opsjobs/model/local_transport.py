"""The checks of `transport: local`, which runs commands on the worker's own host."""

from __future__ import annotations

from collections.abc import Iterable

from opsjobs.model.errors import FieldError, Forbidden, Invalid
from opsjobs.model.target import LOCAL_REASON, Target, Transport


def check_written(
    transport: Transport, was: Transport | None, *, allowed: bool, everywhere: bool
) -> None:
    """Check the transport of a target on write. `was`: the previous one; None: a new target.

    `allowed`: the setting. `everywhere`: the caller has no scope. Raises Forbidden, Invalid."""
    if Transport.LOCAL not in (transport, was):
        return
    if not everywhere:
        detail = (
            f"transport: local is refused within a scope. {LOCAL_REASON} Use ssh, or ask an "
            "administrator without a scope."
        )
        raise Forbidden(
            "out_of_reach", detail, errors=[FieldError("/transport", detail, "out_of_reach")]
        )
    if transport is Transport.LOCAL and not allowed:
        detail = (
            f"transport: local is off. {LOCAL_REASON} Use ssh, or set OPSJOBS_LOCAL_TRANSPORT=on "
            "for the API and the workers."
        )
        raise Invalid(
            "local_transport_off",
            detail,
            errors=[FieldError("/transport", detail, "local_transport_off")],
        )


def check_launched(targets: Iterable[Target], *, allowed: bool) -> None:
    """Raise Invalid if a target of a launch has a transport that is disabled.

    Such targets may have been created while the setting was on."""
    if allowed:
        return
    found = next((target.name for target in targets if target.transport is Transport.LOCAL), None)
    if found is not None:
        detail = (
            f"The target {found} has transport: local, which is off. Select other targets, change "
            "its transport to ssh, "
            "or set OPSJOBS_LOCAL_TRANSPORT=on for the API and the workers."
        )
        raise Invalid(
            "local_transport_off",
            detail,
            errors=[FieldError("/targets", detail, "local_transport_off")],
        )
