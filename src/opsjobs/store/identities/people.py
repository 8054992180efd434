"""People who have logged in at the OpenID Connect provider, known by their sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.model.execution import moment
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.transaction import Database

# The latest claims of a person count, as in sessions. A person has no id of its own: it is made of
# the issuer's identifier.
PEOPLE = Listing(
    """
select ('x' || left(md5(subject), 15))::bit(60)::bigint as id, external_name as name, display_name,
  email, issuer, subject, grants, logins, last_seen_at
from (
  select distinct on (subject) issuer, subject, external_name, display_name, email, grants,
    count(*) filter (where ended_at is null and expires_at > (select opsjobs_now())
      and last_used_at > (select opsjobs_now()) - make_interval(secs => %(idle)s))
      over (partition by subject) as logins,
    max(last_used_at) over (partition by subject) as last_seen_at
  from sessions where issuer = %(issuer)s
  order by subject, issued_at desc nulls last, created_at desc) p""",
    {
        "name": ListColumn("text", sort=True, natural=True),
        "last_seen_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
    keyed=False,
    search=("name", "display_name", "email"),
)


@dataclass(frozen=True, slots=True)
class Person:
    """A person of the provider, with the rights of its latest login."""

    name: str
    display_name: str | None
    email: str | None
    issuer: str
    subject: str
    """The person's identifier at the issuer."""
    grants: Sequence[Mapping[str, Any]]
    """As a session keeps them: each with the roles that it came from."""
    logins: int
    """The number of its sessions that have not ended."""
    last_seen_at: datetime

    def data(self) -> dict[str, Any]:
        """Return an item of GET /external-people."""
        return {
            "name": self.name,
            "display_name": self.display_name,
            "email": self.email,
            "issuer": self.issuer,
            "subject": self.subject,
            "grants": [shown for grant in self.grants for shown in _render_grant(grant)],
            "logins": self.logins,
            "last_seen_at": moment(self.last_seen_at),
        }


def _render_grant(grant: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the roles of a grant; its permissions, if it came from none."""
    roles, scope = grant["roles"], grant["scope"]
    if roles:
        return [{"role": role, "permissions": [], "scope": scope} for role in roles]
    return [{"role": None, "permissions": grant["permissions"], "scope": scope}]


class People:
    """The people of `issuer`, None if there is no provider. `idle_seconds`: as of sessions."""

    def __init__(self, database: Database, *, issuer: str | None, idle_seconds: float) -> None:
        self._database = database
        self._values = {"issuer": issuer, "idle": idle_seconds}

    async def list(self, request: PageRequest) -> Page[Person]:
        """Return people whose sessions are still kept: a day longer than the last one lasts."""
        page = await PEOPLE.page(self._database, request, self._values)
        return page.map(_person)


def _person(row: Mapping[str, Any]) -> Person:
    return Person(**{name: value for name, value in row.items() if name != "id"})
