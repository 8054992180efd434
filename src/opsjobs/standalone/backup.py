"""The command `backup`: dump the database while it is used, and check the dump."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from opsjobs import __version__
from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.model.secret import Secret
from opsjobs.settings import Settings
from opsjobs.standalone.backup_files import (
    DUMP,
    KEYS,
    MANIFEST,
    Manifest,
    check_dump,
    check_sums,
    hash_file,
    report_missing,
    seal_canary,
    write_keys,
)
from opsjobs.standalone.data_dir import DataFolder, read_keys, write_private
from opsjobs.standalone.postgres import Postgres, client_program
from opsjobs.store.connections import libpq_environment
from opsjobs.store.restores import NOT_FINISHED, Position, Restores
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.vault.keys import find_missing_keys

LOCK_SECONDS = 30
_MAKING = ".making"


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """Options of a backup."""

    settings: Settings
    data_dir: Path
    folder: Path
    """The folder in which the backup gets a folder of its own."""
    keys_file: Path | None = None
    """The file for the keys; None: one beside the backup."""
    keys_inside: bool = False
    """True: the keys are written into the backup itself."""
    without_missing_keys: bool = False
    """True: back up even if keys of encrypted rows are missing."""


def back_up(order: BackupOrder, report: Callable[[str], None]) -> Path:
    """Make a backup and return its folder; nothing is left of one that failed.

    Raises Refusal, Unavailable.
    """
    values = _keys(order)
    if order.keys_file is not None and order.keys_file.exists():
        raise Refusal("keys_file_exists", f"{order.keys_file} exists already: name another file.")
    keys = [Secret(text) for text in values.get("ENCRYPTION_KEYS", "").split(",") if text]
    with ExitStack() as stack:
        url = stack.enter_context(database_of(order.settings, order.data_dir))
        position = asyncio.run(read_position(url))
        name = _free_name(order.folder, f"opsjobs-{position.at.strftime('%Y%m%dT%H%M%SZ')}")
        kept = order.folder / name
        making = stack.enter_context(_make_folder(order.folder, name))
        with _disk_errors(order.folder):
            _dump(url, making / DUMP)
            missing = asyncio.run(_find_missing(url, keys))
            if missing and not order.without_missing_keys:
                raise _missing_keys(missing)
            manifest = Manifest(
                __version__,
                position,
                (making / DUMP).stat().st_size,
                hash_file(making / DUMP),
                seal_canary(keys),
                missing,
            )
            write_private(making / MANIFEST, [json.dumps(manifest.data(), indent=1)])
            check_dump(making / DUMP)
            check_sums(making, manifest)
            keys_file = _write_keys(order, making, kept, values)
            _sync(making)
            making.rename(kept)
            _sync(order.folder)
    size = f"{manifest.dump_bytes / (1 << 20):.1f} MiB"
    report(f"{kept}: {size}, of {manifest.at}, schema {position.revision}; read back and checked")
    report_missing(missing, report)
    if not values and not missing:
        report("no keys: ENCRYPTION_KEYS is not set, so no secret is stored")
    elif values and order.keys_inside:
        report("its keys are in it: everyone who can read it can read every stored credential")
    elif values:
        report(f"{keys_file}: its keys. Keep them apart: without them no credential can be read")
    return kept


@contextmanager
def database_of(settings: Settings, data_dir: Path) -> Iterator[str]:
    """Yield the URL of the service's database.

    That is DATABASE_URL, or the embedded database: of the running `opsjobs up`, else started for
    the length of the block. Raises Refusal, Unavailable.
    """
    if settings.database.url:
        yield settings.database.url
        return
    server = Postgres(data_dir, log=data_dir / "logs" / "postgres.log")
    if not server.exists:
        raise Refusal(
            "no_database",
            f"{data_dir} holds no database. Name the folder of `opsjobs up` with --data-dir, or "
            "set DATABASE_URL.",
        )
    folder = DataFolder(data_dir)
    try:
        folder.acquire()
    except Refusal as refused:
        if refused.code != "already_running":
            raise
        yield server.running_url
        return
    try:
        yield server.start()
    finally:
        server.stop()
        folder.release()


async def read_position(url: str) -> Position:
    """Return the state of the database. Raises Unavailable, and Refusal in a restore."""
    database = Database(DatabaseOptions(url, connections=1, application_name="opsjobs backup"))
    await database.open()
    try:
        if await Restores(database).is_unfinished():
            raise Refusal("restore_not_finished", NOT_FINISHED)
        return await Restores(database).position()
    finally:
        await database.close()


async def _find_missing(url: str, keys: Sequence[Secret]) -> dict[str, int]:
    """Return the keys that the backup would not have, with the number of rows of each."""
    database = Database(DatabaseOptions(url, connections=1, application_name="opsjobs backup"))
    await database.open()
    try:
        return await find_missing_keys(database, keys)
    finally:
        await database.close()


def _missing_keys(missing: Collection[str]) -> Refusal:
    return Refusal(
        "wrong_keys",
        f"the keys do not open everything in this database: key {', '.join(missing)} is "
        "missing. Set ENCRYPTION_KEYS as the processes of the service have it, or name the "
        "data folder of `opsjobs up` with --data-dir. If the key is lost, back up without it: "
        "--without-missing-keys. Nothing was kept.",
    )


def _keys(order: BackupOrder) -> dict[str, str]:
    """Return the secrets without which a restored database is of no use, by their settings."""
    settings, folder = order.settings, DataFolder(order.data_dir)
    keys = [key.reveal() for key in settings.security.encryption_keys]
    if not keys and folder.keys.exists():  # `up` uses these with DATABASE_URL, too
        keys = read_keys(folder.keys)
    token = settings.security.admin_token
    found = {
        "ENCRYPTION_KEYS": ",".join(keys),
        "OPSJOBS_ADMIN_TOKEN": token.reveal() if token is not None else "",
        "JWT_SECRET_KEY": (
            settings.identity.jwt_secret_key.reveal()
            if settings.identity.jwt_secret_key is not None
            else ""
        ),
    }
    if (token is None or not settings.database.url) and folder.admin_token.exists():
        found["OPSJOBS_ADMIN_TOKEN"] = folder.admin_token.read_text().strip()
    return {name: value for name, value in found.items() if value}


def _free_name(parent: Path, name: str) -> str:
    """Return the name of a backup that is not there yet: one of the same second has a number."""
    names = (name, *(f"{name}-{number}" for number in range(2, 100)))
    return next((free for free in names if not (parent / free).exists()), name)


@contextmanager
def _make_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new private folder for the backup; remove it unless it was renamed."""
    making = parent / f".{name}{_MAKING}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        making.mkdir(mode=0o700)
    except OSError as error:
        raise Refusal(
            "folder_unusable", f"{making}: it cannot be made ({error.strerror})."
        ) from None
    try:
        yield making
    finally:
        shutil.rmtree(making, ignore_errors=True)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = " Free some space, or choose another folder." * (error.errno == errno.ENOSPC)
        raise Refusal(
            "backup_not_written",
            f"{folder}: the backup could not be written ({error.strerror}).{full} "
            "Nothing of it was kept.",
        ) from None


def _dump(url: str, path: Path) -> None:
    """Write a consistent dump of the database, as of one moment, while it is being used."""
    done = subprocess.run(  # noqa: S603  our own arguments
        [
            client_program("pg_dump"),
            *("--format=custom", "--compress=gzip:1", "--no-owner", "--no-privileges"),
            *("--no-password", f"--lock-wait-timeout={LOCK_SECONDS}s", f"--file={path}"),
        ],
        env={**os.environ, **libpq_environment(url)},
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        error = done.stderr.strip()
        if os.strerror(errno.ENOSPC) in error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise Unavailable(f"pg_dump: the database could not be dumped: {error}")


def _write_keys(
    order: BackupOrder, making: Path, kept: Path, values: dict[str, str]
) -> Path | None:
    if not values:
        return None
    if order.keys_inside:
        write_keys(making / KEYS, kept.name, values)
        return None
    path = order.keys_file or kept.with_name(f"{kept.name}.{KEYS}")
    write_keys(path, kept.name, values)
    return path


def _sync(folder: Path) -> None:
    """Make the folder's entries survive a power cut, and the files in it."""
    for path in [*folder.glob("*"), folder] if folder.name.endswith(_MAKING) else [folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
