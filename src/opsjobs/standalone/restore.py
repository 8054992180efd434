"""The command `restore`: load a backup into an empty place, and mark the database.

Nothing is started. A restore that fails leaves the data folder as it was. In the database of
DATABASE_URL it may leave what it has loaded, with a table that keeps all processes away; another
restore clears that.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from opsjobs.model.errors import Conflict, NotFound, Refusal, Unavailable
from opsjobs.model.execution import moment
from opsjobs.model.secret import Secret
from opsjobs.model.units import format_duration
from opsjobs.settings import Settings
from opsjobs.standalone.backup_files import (
    DUMP,
    KEYS,
    Manifest,
    check_dump,
    check_sums,
    read_keys_file,
    read_manifest,
    report_missing,
)
from opsjobs.standalone.data_dir import DataFolder, read_keys, write_private
from opsjobs.standalone.postgres import Postgres, client_program
from opsjobs.store.connections import libpq_environment
from opsjobs.store.ledger import Ledger
from opsjobs.store.migrations import runner
from opsjobs.store.restores import UNFINISHED, MarkedRestore, Restores, exclude_other_restores
from opsjobs.store.system_status import HEAD
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.vault.keys import find_missing_keys

ERROR_BYTES_MAX = 4_000
COPY_BYTES = 1 << 20
_SINCE_17 = b"SET transaction_timeout = 0;\n"


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """Options of a restore."""

    settings: Settings
    data_dir: Path
    backup: Path
    keys_file: Path | None = None
    """The file with its keys; None: in the backup, beside it, or ENCRYPTION_KEYS."""
    replace: bool = False
    """True: database and keys in the data folder are moved aside.

    With DATABASE_URL, what an unfinished restore has loaded is dropped.
    """


def restore(order: RestoreOrder, report: Callable[[str], None]) -> None:
    """Restore a backup. Raises Refusal, Unavailable."""
    manifest = read_manifest(order.backup)
    if manifest.position.revision > HEAD:
        raise Refusal(
            "backup_of_newer_release",
            f"{order.backup}: it was made by opsjobs {manifest.opsjobs} at schema "
            f"{manifest.position.revision}, and this release knows {HEAD}. "
            "Restore it with that release or a later one.",
        )
    values = _find_keys(order)
    keys = [Secret(text) for text in values.get("ENCRYPTION_KEYS", "").split(",") if text]
    manifest.check_keys(keys)
    if order.settings.database.url:
        with exclude_other_restores(order.settings.database.url):
            marked = _restore_into(order.settings.database.url, order, manifest, keys, report)
    else:
        marked = _restore_embedded(order, manifest, keys, values, report)
    _report(order, manifest, marked, values, report)


def _restore_embedded(
    order: RestoreOrder,
    manifest: Manifest,
    keys: Sequence[Secret],
    values: Mapping[str, str],
    report: Callable[[str], None],
) -> MarkedRestore:
    """Load it into a new cluster, which takes its place only when all is done."""
    folder = DataFolder(order.data_dir)
    folder.acquire()
    try:
        if folder.holdings and not order.replace:
            held = "a database" if Postgres(folder.path).exists else "keys of another database"
            raise Refusal(
                "data_folder_not_empty",
                f"{folder.path} holds {held} already. Choose an empty folder with --data-dir, "
                "or move what is there aside with --replace.",
            )
        making = folder.restoring
        with _removed(making):
            server = Postgres(making, log=folder.logs / "postgres.log")
            try:
                marked = _restore_into(server.start(), order, manifest, keys, report)
            finally:
                server.stop()
            if folder.holdings:
                report(f"what was there is kept in {_move_aside(folder)}")
            _write_secrets(folder, order.settings, values)
            (making / "pg").rename(folder.path / "pg")
        return marked
    finally:
        folder.release()


@contextmanager
def _removed(folder: Path) -> Iterator[None]:
    """Remove the folder before the block, as a killed restore may have left it, and after it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_aside(folder: DataFolder) -> Path:
    """Move the present database and its secrets into a folder of their own."""
    aside = folder.path / f"replaced-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    aside.mkdir(mode=0o711)
    for path in folder.holdings:
        path.rename(aside / path.name)
    return aside


def _write_secrets(folder: DataFolder, settings: Settings, values: Mapping[str, str]) -> None:
    keys = [text for text in values.get("ENCRYPTION_KEYS", "").split(",") if text]
    if keys and not settings.security.encryption_keys:
        write_private(folder.keys, keys)
    if token := values.get("OPSJOBS_ADMIN_TOKEN"):
        write_private(folder.admin_token, [token])


def _restore_into(
    url: str,
    order: RestoreOrder,
    manifest: Manifest,
    keys: Sequence[Secret],
    report: Callable[[str], None],
) -> MarkedRestore:
    """Check the dump, load it into an empty database, bring that to this release, and mark it."""
    unfinished = asyncio.run(_find_unfinished(url))
    if unfinished and not order.replace:
        raise Refusal(
            "restore_not_finished",
            "the database of DATABASE_URL holds what an unfinished restore has loaded. Clear "
            "that with --replace.",
        )
    check_sums(order.backup, manifest)
    check_dump(order.backup / DUMP)
    report(f"{order.backup}: of {manifest.at}, checked; its keys open it")
    if unfinished:
        asyncio.run(_clear(url))
        report("what an unfinished restore had loaded was dropped")
    _load(url, order.backup / DUMP)
    runner.upgrade(url, keys, restoring=True)
    return asyncio.run(_check_and_mark(url, order.backup.name, manifest, keys, report))


async def _find_unfinished(url: str) -> bool:
    """Return True if an unfinished restore has loaded the database, False if it is empty.

    Raises Refusal if it has other tables.
    """
    async with _opened(url) as database:
        if await Restores(database).is_empty():
            return False
        if await Restores(database).is_unfinished():
            return True
    raise Refusal(
        "database_not_empty",
        "the database of DATABASE_URL has tables already. Create an empty one, and restore "
        "into that.",
    )


async def _clear(url: str) -> None:
    async with _opened(url) as database:
        await Restores(database).clear()


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseOptions(url, connections=2, application_name="opsjobs restore"))
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def _load(url: str, dump: Path) -> None:
    """Load the dump, and the table that marks it as unfinished, in one transaction.

    pg_restore writes a script, and psql runs it: pg_restore's own connection sets a parameter
    that servers before PostgreSQL 17 do not know.
    """
    with tempfile.TemporaryFile("w+") as errors:
        reader = subprocess.Popen(  # noqa: S603  our own arguments
            [
                client_program("pg_restore"),
                *("--file=-", "--no-owner", "--no-privileges", str(dump)),
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        writer = subprocess.Popen(  # noqa: S603  our own arguments
            [
                client_program("psql"),
                *("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"),
            ],
            env={**os.environ, **libpq_environment(url)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        assert writer.stdin is not None
        with reader, writer:
            try:
                loaded = _copy_script(reader, writer)
            finally:
                reader.kill()
                writer.kill()  # without a commit, if something is wrong
                with suppress(BrokenPipeError):
                    writer.stdin.close()
        if not loaded:
            errors.seek(0)
            raise Unavailable(
                f"the dump could not be loaded: {errors.read(ERROR_BYTES_MAX).strip()}"
            )


def _copy_script(reader: subprocess.Popen[bytes], writer: subprocess.Popen[bytes]) -> bool:
    """Copy the script, and commit only if all of it was read; return True if that worked."""
    assert reader.stdout is not None
    assert writer.stdin is not None
    try:
        writer.stdin.write(b"begin;\n")
        for line in reader.stdout:
            if line != _SINCE_17:
                writer.stdin.write(line)
            if line.startswith(b"SELECT "):  # the end of the parameters
                break
        shutil.copyfileobj(reader.stdout, writer.stdin, COPY_BYTES)
        if reader.wait() != 0:
            return False
        # In the role's schema, as the dump has emptied the search path.
        writer.stdin.write(f"reset search_path;\ncreate table {UNFINISHED}();\n".encode())
        writer.stdin.write(b"commit;\n")
        writer.stdin.close()
    except BrokenPipeError:
        writer.wait()
        return False
    return writer.wait() == 0


async def _check_and_mark(
    url: str,
    name: str,
    manifest: Manifest,
    keys: Sequence[Secret],
    report: Callable[[str], None],
) -> MarkedRestore:
    async with _opened(url) as database:
        missing = await find_missing_keys(database, keys)
        if lost := sorted(missing.keys() - manifest.missing_keys.keys()):
            raise Refusal(
                "wrong_keys",
                "the keys do not open everything in this backup: key "
                f"{', '.join(lost)} is missing. "
                "Name the file with its keys: --keys FILE.",
            )
        report_missing(missing, report)
        marked = await Restores(database).mark(manifest.position.at, name)
        reason = f"restored from a backup of {manifest.at}: what ran since then is not recorded"
        for execution in marked.open_executions:
            with suppress(Conflict, NotFound):  # it is being cancelled
                await Ledger(database).pause(execution, by="opsjobs", reason=reason)
        await Restores(database).finish()
        return marked


def _find_keys(order: RestoreOrder) -> dict[str, str]:
    """Return the keys, from the first place that has them; empty if there are none."""
    beside = order.backup.with_name(f"{order.backup.name}.{KEYS}")
    configured = [key.reveal() for key in order.settings.security.encryption_keys]
    if order.keys_file is not None:
        return read_keys_file(order.keys_file)
    for path in (order.backup / KEYS, beside):
        if path.exists():
            return read_keys_file(path)
    present = DataFolder(order.data_dir).keys
    if not configured and present.exists():
        configured = read_keys(present)
    return {"ENCRYPTION_KEYS": ",".join(configured)} if configured else {}


def _report(
    order: RestoreOrder,
    manifest: Manifest,
    marked: MarkedRestore,
    values: Mapping[str, str],
    report: Callable[[str], None],
) -> None:
    now = datetime.now(UTC)
    age = format_duration(max(round((now - manifest.position.at).total_seconds()), 0))
    place = "the database of DATABASE_URL" if order.settings.database.url else order.data_dir
    report(f"restored into {place}, schema {HEAD}, as of {manifest.at} ({age} ago)")
    if marked.open_executions:
        report(
            f"executions that had not ended: {len(marked.open_executions)}. They are paused, "
            "because they may have gone on since. See `opsjobs executions list --status running` "
            "and `--status queued`, then `opsjobs executions resume` or `cancel`"
        )
    if marked.waiting_approvals:
        report(
            f"executions that wait for an approval: {marked.waiting_approvals}. "
            "They may have been approved since, and have run: reject those"
        )
    if marked.sessions_ended:
        report(f"logins that were ended: {marked.sessions_ended}. People log in again")
    report(
        f"changes after {moment(manifest.position.at)} are lost: API keys revoked and users "
        "disabled since then are valid again"
    )
    has_keys = bool(order.settings.security.encryption_keys)
    if order.settings.database.url and "ENCRYPTION_KEYS" in values and not has_keys:
        report("ENCRYPTION_KEYS is not set: give your processes the keys of this backup")
    if "JWT_SECRET_KEY" in values and order.settings.identity.jwt_secret_key is None:
        report("JWT_SECRET_KEY is in the keys file: set it as it was set before")
    report("nothing was started: next, `opsjobs up`, or your processes")
