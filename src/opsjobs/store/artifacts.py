"""Artifacts: files fetched from targets, each with the path that it had there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.execution import moment
from opsjobs.model.run_views import TargetName
from opsjobs.store.blobs import Written, seal
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import find
from opsjobs.store.transaction import Database

_SELECT = """
select a.id, a.uuid, a.execution_id, r.target_id, r.target_name, r.target_host, a.action, a.attempt, a.path, c.size,
  encode(c.sha256, 'hex') as sha256, a.created_at, a.content_id
from artifacts a join target_runs r on r.id = a.target_run_id join file_contents c on c.id = a.content_id"""
ARTIFACTS = Listing(
    f"select x.*, x.target_id as target from ({_SELECT} where a.execution_id = %(execution)s) x",
    {
        "id": ListColumn("integer", sort=True),
        "target": ListColumn("text"),
        "target_name": ListColumn("text", sort=True),
        "action": ListColumn("text"),
        "path": ListColumn("text", sort=True),
        "size": ListColumn("integer", sort=True),
        "sha256": ListColumn("text"),
    },
    default_sort="id",
)
_HELD = "select true as held from target_runs where id = %(run)s and fence = %(fence)s and status = 'running' for key share"
_FORGET = "delete from artifacts where target_run_id = %(run)s and action = %(action)s and attempt = %(attempt)s and path = %(path)s"
_RECORD = """
insert into artifacts (uuid, execution_id, target_run_id, action, attempt, path, content_id)
select %(uuid)s, r.execution_id, r.id, %(action)s, %(attempt)s, %(path)s, %(content)s from target_runs r where r.id = %(run)s"""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a target that an action fetched. `sha256` is in hexadecimal."""

    id: int
    uuid: str
    execution_id: int
    target: TargetName
    action: str
    attempt: int
    path: str
    size: int
    sha256: str
    created_at: datetime
    content_id: int

    def data(self) -> dict[str, Any]:
        """Return an item of GET /executions/{id}/artifacts."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "execution_id": self.execution_id,
            "target": self.target.data(),
            "action_key": self.action,
            "attempt": self.attempt,
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "created_at": moment(self.created_at),
        }


class Artifacts:
    """Records and reads artifacts."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def record(
        self, run_id: int, fence: int, *, action: str, attempt: int, path: str, written: Written
    ) -> bool:
        """Record bytes as the file at `path`, idempotently; return False if the run was lost.

        The run is lost if its fence or status is no longer the caller's.
        """
        of = {"run": run_id, "fence": fence, "action": action, "attempt": attempt, "path": path}
        async with self._database.transaction() as connection:
            # A worker that lost the run records nothing.
            if await (await connection.execute(_HELD, of)).fetchone() is None:
                return False
            new = {"uuid": uuid7(self._clock.now()), "content": await seal(connection, written)}
            await connection.execute(_FORGET, of)
            await connection.execute(_RECORD, of | new)
            return True

    async def get(self, ref: str | int) -> Artifact:
        """Return the artifact of this id or uuid. Raises NotFound."""
        return _artifact(await find(self._database, "artifact", ref, _SELECT, "a."))

    async def list(self, execution_id: int, request: PageRequest) -> Page[Artifact]:
        """Return a page in the order of creation; filters and orders are those of ARTIFACTS."""
        return (await ARTIFACTS.page(self._database, request, {"execution": execution_id})).map(
            _artifact
        )


def _artifact(row: Mapping[str, Any]) -> Artifact:
    target = TargetName(row["target_id"], row["target_name"], row["target_host"])
    values = {name: row[name] for name in Artifact.__slots__ if name != "target"}
    return Artifact(**{**values, "uuid": str(row["uuid"]), "target": target})
