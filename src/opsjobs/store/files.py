"""Files that callers uploaded, and artifacts: files that runs fetched from targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.errors import Conflict, Failure
from opsjobs.model.execution import moment
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import TargetName
from opsjobs.model.units import describe_size
from opsjobs.store import audit, idempotency
from opsjobs.store.blobs import Written, seal
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import IndexWalk, ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import find
from opsjobs.store.transaction import Connection, Database

_SELECT = """
select f.id, f.uuid, f.name, c.size, encode(c.sha256, 'hex') as sha256, f.created_by,
  f.created_by_kind, f.created_at, f.content_id
from files f join file_contents c on c.id = f.content_id"""
FILES = Listing(
    f"{_SELECT} where %(by)s::text is null or (f.created_by, f.created_by_kind) = (%(by)s, "
    f"%(kind)s)",
    {
        "id": ListColumn("integer", sort=True),
        "name": ListColumn("text", walk=IndexWalk("name")),
        "sha256": ListColumn("text"),
        "created_by": ListColumn("text", walk=IndexWalk("created_by")),
        "created_at": ListColumn("moment", sort=True, indexed=True, by_id=True),
    },
)
_CREATE = (
    "insert into files (uuid, name, content_id, created_by, created_by_kind) values (%s, %s, "
    "%s, %s, %s) returning id"
)
# An execution that has not ended copies the file to its targets: the launch stores the file's uuid
# as the source.
_IN_USE = """
select e.id from job_executions e join execution_specs s on s.execution_id = e.id
where e.finished_at is null
  and s.actions @> jsonb_build_array(jsonb_build_object('type', 'file_transfer', 'source',
    %s::text)) limit 1"""


# A row per caller; no file is read. In addition to files: uploads in progress, aborted uploads, and
# deleted contents that are not removed yet.
_USED = """
select f.all_bytes, f.caller_bytes, l.all_bytes as all_loose, l.caller_bytes as caller_loose
from (
  select coalesce(sum(bytes), 0) as all_bytes,
    coalesce(sum(bytes) filter (where created_by = %(by)s and created_by_kind = %(kind)s),
      0) as caller_bytes
  from file_usage
) f cross join (
  select coalesce(sum(size), 0) as all_bytes,
    coalesce(sum(size) filter (where written_by = %(by)s and written_by_kind = %(kind)s),
      0) as caller_bytes
  from file_contents where (loose or doomed) and written_by is not null
) l"""
_ONE_AT_A_TIME = "select pg_advisory_xact_lock(hashtextextended('files', 7))"


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes in files; `loose`: on the disk, but not referenced by a file."""

    all_bytes: int
    caller_bytes: int
    all_loose: int = 0
    caller_loose: int = 0


@dataclass(frozen=True, slots=True)
class FileLimits:
    """The limits on the bytes of all files together, and of one caller; 0 for no limit."""

    all_bytes: int = 0
    caller_bytes: int = 0

    def room(self, used: Used) -> int | None:
        """Return how many more bytes may be stored; None if there is no limit.

        Loose bytes have a limit of the same size in addition to that of files.
        """
        rooms = [
            min(limit - files, 2 * limit - files - loose)
            for limit, files, loose in (
                (self.caller_bytes, used.caller_bytes, used.caller_loose),
                (self.all_bytes, used.all_bytes, used.all_loose),
            )
            if limit
        ]
        return min(rooms, default=None)

    def holds(self, used: Used) -> bool:
        """Return whether the files are within the limits."""
        return (not self.caller_bytes or used.caller_bytes <= self.caller_bytes) and (
            not self.all_bytes or used.all_bytes <= self.all_bytes
        )


NO_LIMITS = FileLimits()


class Full(Failure):
    """The file exceeds the limits, or others that were stored meanwhile have used them up."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An uploaded file. `sha256` is in hexadecimal, `content_id` refers to its bytes."""

    id: int
    uuid: str
    name: str
    size: int
    sha256: str
    created_by: Identity
    created_at: datetime
    content_id: int

    def data(self) -> dict[str, Any]:
        """Return the body of GET /files/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "size": self.size,
            "sha256": self.sha256,
            "created_by": self.created_by.name,
            "created_by_kind": self.created_by.kind,
            "created_at": moment(self.created_at),
        }


class Files:
    """The uploaded files: each has its own name, for a content that several files may share."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def create(
        self,
        name: str,
        written: Written,
        created_by: Identity,
        idem: IdempotentRequest | None = None,
        *,
        limits: FileLimits = NO_LIMITS,
    ) -> StoredFile | Answer:
        """Store written bytes as a file. Raises Forgotten, Full, and as `idempotency.begin`."""

        async def insert(connection: Connection) -> StoredFile:
            limited = limits != NO_LIMITS
            if limited:
                await connection.execute(_ONE_AT_A_TIME)
            content_id = await seal(connection, written)
            uuid, by = uuid7(self._clock.now()), created_by
            values = [uuid, name, content_id, by.name, by.kind]
            made = await (await connection.execute(_CREATE, values)).fetchone()
            assert made is not None
            if limited and not limits.holds(await _used(connection, created_by)):
                raise Full(f"file {name!r} has no room any more")
            row = await (
                await connection.execute(f"{_SELECT} where f.id = %s", [made["id"]])
            ).fetchone()
            assert row is not None
            stored = _file(row)
            after = {"size": stored.size, "sha256": stored.sha256}
            await audit.record(connection, "file.uploaded", "file", stored.id, name, after=after)
            return stored

        answer = idempotency.created_at("/files")
        return await idempotency.once(self._database, idem, insert, answer)

    async def get(self, ref: str | int) -> StoredFile:
        """Return the file of this id or uuid. Raises NotFound."""
        return _file(await find(self._database, "file", ref, _SELECT, "f."))

    async def used(self, identity: Identity) -> Used:
        """Return the bytes of all files, and of this identity; equal files count each."""
        async with self._database.connection() as connection:
            return await _used(connection, identity)

    async def list(self, request: PageRequest, of: Identity | None = None) -> Page[StoredFile]:
        """Return a page, newest first, of one identity or of all.

        Filters and orders are those of FILES.
        """
        values = {"by": of and of.name, "kind": of and of.kind}
        return (await FILES.page(self._database, request, values)).map(_file)

    async def delete(self, ref: str | int) -> None:
        """Delete the file. Raises NotFound, Conflict.

        Its bytes are deleted with the last file that shares them.
        """
        stored = await self.get(ref)
        async with self._database.transaction() as connection:
            for source in (stored.uuid, str(stored.id)):
                user = await (await connection.execute(_IN_USE, [source])).fetchone()
                if user is not None:
                    detail = (
                        f"Execution {user['id']}, which has not ended, brings file "
                        f"{stored.id} to its targets: wait for its end."
                    )
                    raise Conflict("file_in_use", detail)
            await connection.execute("delete from files where id = %s", [stored.id])
            before = {
                "size": stored.size,
                "sha256": stored.sha256,
                "created_by": stored.created_by.name,
            }
            await audit.record(
                connection, "file.deleted", "file", stored.id, stored.name, before=before
            )


async def _used(connection: Connection, identity: Identity) -> Used:
    values = {"by": identity.name, "kind": identity.kind}
    row = await (await connection.execute(_USED, values)).fetchone()
    assert row is not None
    return Used(**{part: int(number) for part, number in row.items()})


def _file(row: Mapping[str, Any]) -> StoredFile:
    return StoredFile(
        row["id"],
        str(row["uuid"]),
        row["name"],
        row["size"],
        row["sha256"],
        Identity(row["created_by_kind"], row["created_by"]),
        row["created_at"],
        row["content_id"],
    )


_SELECT_ARTIFACT = """
select a.id, a.uuid, a.execution_id, r.target_id, r.target_name, r.target_host, a.action, a.attempt,
  a.path, c.size,
  encode(c.sha256, 'hex') as sha256, a.created_at, a.content_id
from artifacts a join target_runs r on r.id = a.target_run_id join file_contents c
  on c.id = a.content_id"""
ARTIFACTS = Listing(
    f"select x.*, x.target_id as target from ({_SELECT_ARTIFACT} where a.execution_id = "
    f"%(execution)s) x",
    {
        "id": ListColumn("integer", sort=True),
        "target": ListColumn("text"),
        "target_name": ListColumn("text", sort=True, natural=True),
        "action": ListColumn("text"),
        "path": ListColumn("text", sort=True, natural=True),
        "size": ListColumn("integer", sort=True),
        "sha256": ListColumn("text"),
    },
    default_sort="id",
)
_HELD = (
    "select true as held from target_runs where id = %(run)s and fence = %(fence)s and status "
    "= 'running' for key share"
)
_FORGET = (
    "delete from artifacts where target_run_id = %(run)s and action = %(action)s and attempt "
    "= %(attempt)s and path = %(path)s"
)
_RECORD = """
insert into artifacts (uuid, execution_id, target_run_id, action, attempt, path, content_id,
  requested_by, requested_by_kind)
select %(uuid)s, r.execution_id, r.id, %(action)s, %(attempt)s, %(path)s, %(content)s,
  s.requested_by, s.requested_by_kind
from target_runs r join execution_specs s on s.execution_id = r.execution_id where r.id = %(run)s"""
# At most a row per shard.
_ARTIFACTS_USED = """
select s.requested_by as caller, coalesce(sum(u.bytes), 0)::bigint as bytes,
  coalesce(sum(u.artifacts), 0)::bigint as artifacts
from execution_specs s left join artifact_usage u
  on (u.requested_by, u.requested_by_kind) = (s.requested_by, s.requested_by_kind)
where s.execution_id = (select execution_id from target_runs where id = %(run)s)
group by 1"""


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """The limits on the artifacts of one caller; 0 for no limit."""

    caller_bytes: int = 0
    caller_artifacts: int = 0

    def check(self, caller: str, used_bytes: int, used_artifacts: int) -> None:
        """Raise Full if the caller's artifacts exceed a limit."""
        if 0 < self.caller_bytes < used_bytes:
            words = f"{describe_size(self.caller_bytes)} (OPSJOBS_ARTIFACTS_PER_CALLER_BYTES)"
        elif 0 < self.caller_artifacts < used_artifacts:
            words = f"{self.caller_artifacts} (OPSJOBS_ARTIFACTS_PER_CALLER)"
        else:
            return
        raise Full(
            f"the artifacts of {caller} are over the limit of {words}: have it raised, or "
            "OPSJOBS_KEEP_ARTIFACTS shortened"
        )


NO_ARTIFACT_LIMITS = ArtifactLimits()


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

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        limits: ArtifactLimits = NO_ARTIFACT_LIMITS,
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._limits = limits

    async def check_room(self, run_id: int) -> None:
        """Raise Full if the caller of the run may not have another byte in artifacts."""
        if self._limits != NO_ARTIFACT_LIMITS:
            async with self._database.connection() as connection:
                await self._check(connection, run_id, more=1)

    async def record(
        self, run_id: int, fence: int, *, action: str, attempt: int, path: str, written: Written
    ) -> bool:
        """Record bytes as the file at `path`, idempotently; return False if the run was lost.

        The run is lost if its fence or status is no longer the caller's. Raises Full.
        """
        of = {"run": run_id, "fence": fence, "action": action, "attempt": attempt, "path": path}
        async with self._database.transaction() as connection:
            # A worker that lost the run records nothing.
            if await (await connection.execute(_HELD, of)).fetchone() is None:
                return False
            new = {"uuid": uuid7(self._clock.now()), "content": await seal(connection, written)}
            await connection.execute(_FORGET, of)
            await connection.execute(_RECORD, of | new)
            if self._limits != NO_ARTIFACT_LIMITS:
                await self._check(connection, run_id)
            return True

    async def _check(self, connection: Connection, run_id: int, *, more: int = 0) -> None:
        row = await (await connection.execute(_ARTIFACTS_USED, {"run": run_id})).fetchone()
        if row is not None:
            self._limits.check(row["caller"], row["bytes"] + more, row["artifacts"] + more)

    async def get(self, ref: str | int) -> Artifact:
        """Return the artifact of this id or uuid. Raises NotFound."""
        return _artifact(await find(self._database, "artifact", ref, _SELECT_ARTIFACT, "a."))

    async def list(self, execution_id: int, request: PageRequest) -> Page[Artifact]:
        """Return a page in the order of creation; filters and orders are those of ARTIFACTS."""
        return (await ARTIFACTS.page(self._database, request, {"execution": execution_id})).map(
            _artifact
        )


def _artifact(row: Mapping[str, Any]) -> Artifact:
    target = TargetName(row["target_id"], row["target_name"], row["target_host"])
    values = {name: row[name] for name in Artifact.__slots__ if name != "target"}
    return Artifact(**{**values, "uuid": str(row["uuid"]), "target": target})
