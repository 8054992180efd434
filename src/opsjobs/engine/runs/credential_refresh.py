"""Refresh a run's logins: contact lost after a rotation is made again with the new secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from opsjobs.integrations.targets import Targets
from opsjobs.model.errors import Unavailable
from opsjobs.model.secret import Credential
from opsjobs.model.target import Endpoint


async def refresh_credentials(targets: Targets, endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with the current versions of its credentials.

    Logins stay as they were if there is no newer version, or the database is away.
    """
    try:
        now = (await targets.endpoints([endpoint.target.id])).get(endpoint.target.id)
    except Unavailable:
        return endpoint
    if now is None:
        return endpoint
    logins = {hop.target.id: hop.credential for hop in (now, *now.jumps)}
    return replace(
        _hop(endpoint, logins), jumps=tuple(_hop(jump, logins) for jump in endpoint.jumps)
    )


def _hop(hop: Endpoint, logins: Mapping[str, Credential | None]) -> Endpoint:
    old, new = hop.credential, logins.get(hop.target.id)
    if old is None or new is None or old.fault is not None or new.fault is not None:
        return hop
    # A login with another user name is another login: it was not part of what was approved.
    same = (new.id, new.username) == (old.id, old.username)
    return replace(hop, credential=new) if same and new.version != old.version else hop
