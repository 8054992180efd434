"""The binding of a credential to machines and jobs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Binding:
    """Ids of targets, names of groups and ids of jobs that a credential may be used for.

    Targets and groups limit the machines, jobs limit the purpose; an empty side sets no limit."""

    targets: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    jobs: frozenset[int] = frozenset()

    @property
    def has_places(self) -> bool:
        """True if the binding limits the machines."""
        return bool(self.targets or self.groups)

    def holds_target(self, target_id: str, members: Collection[str]) -> bool:
        """Return True if it may be used on this machine; `members`: target ids of its groups."""
        return not self.has_places or target_id in self.targets or target_id in members

    def holds_job(self, job_id: int | None) -> bool:
        """Return True if it may be used for this job; None: for commands without a job."""
        return not self.jobs or job_id in self.jobs


ANYWHERE = Binding()


def not_there(credential: str, target: str) -> str:
    """Return why it is refused on a machine, and what to do."""
    return (
        f"the credential {credential!r} is bound to targets or groups, and {target} is none of "
        "them: "
        f"bind it to {target}, too (credentials:manage), or name another credential"
    )


def not_for_that(credential: str, job: str | None) -> str:
    """Return why it is refused for a job or an ad-hoc command, and what to do."""
    what = f"the job {job!r} is none of them" if job is not None else "this is no stored job"
    return (
        f"the credential {credential!r} is bound to jobs, and {what}: bind it to the job, too "
        "(credentials:manage), "
        "or name another credential"
    )
