"""The files of a backup: the database's dump, its manifest, and the keys, apart from both."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from opsjobs.model.errors import Refusal
from opsjobs.model.execution import moment
from opsjobs.model.secret import Secret
from opsjobs.standalone.data_dir import write_private
from opsjobs.standalone.postgres import client_program
from opsjobs.store.envelope import KeyMissing, KeyRing, Sealed, SealPlace, Tampered
from opsjobs.store.restores import Position

FORMAT = 1
DUMP = "database.dump"
MANIFEST = "manifest.json"
KEYS = "keys"
MANIFEST_BYTES_MAX = 64 << 10
KEYS_BYTES_MAX = 64 << 10
_CANARY = b"opsjobs"
_PLACE = SealPlace("backup", UUID(int=0), 1)
KEY_NAMES = ("ENCRYPTION_KEYS", "OPSJOBS_ADMIN_TOKEN", "JWT_SECRET_KEY")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a backup: read before anything is done with its dump."""

    opsjobs: str
    """The release that made the backup."""
    position: Position
    dump_bytes: int
    dump_sha256: str
    canary: Sealed | None
    """A word sealed under the current key; None: no key was configured."""
    missing_keys: Mapping[str, int] = field(default_factory=dict)
    """Keys that were missing, with the number of rows that they encrypt."""

    def data(self) -> dict[str, Any]:
        """Return the manifest as it is stored."""
        position, canary = self.position, self.canary
        return {
            "format": FORMAT,
            "opsjobs": self.opsjobs,
            "at": position.at.isoformat(),
            "revision": position.revision,
            "positions": {
                "executions": position.executions,
                "events": position.events,
                "audit_head": position.audit_head,
            },
            "server": position.server,
            "database_bytes": position.bytes,
            "files": {DUMP: {"bytes": self.dump_bytes, "sha256": self.dump_sha256}},
            "missing_keys": dict(self.missing_keys),
            "canary": canary
            and {
                "key_id": canary.key_id,
                "wrapped_key": canary.wrapped_key.hex(),
                "sealed": canary.sealed.hex(),
            },
        }

    @property
    def at(self) -> str:
        """The time of the backup, for people."""
        return moment(self.position.at) or ""

    def check_keys(self, keys: Sequence[Secret]) -> None:
        """Raise Refusal if the canary does not decrypt with these keys."""
        if self.canary is None:
            return
        try:
            opens = keys and KeyRing(keys).open(self.canary, _PLACE) == _CANARY
        except (KeyMissing, Tampered, ValueError):
            opens = False
        if not opens:
            raise Refusal(
                "wrong_keys",
                f"the keys do not open this backup: it was made under key {self.canary.key_id}. "
                "Name the file with its keys: --keys FILE.",
            )


def report_missing(keys: Mapping[str, int], report: Callable[[str], None]) -> None:
    """Report each missing key with what cannot be read without it."""
    for key, rows in keys.items():
        report(
            f"key {key} is missing: unless it is found, what it encrypts cannot be read, and "
            f"what it signs cannot be verified (rows: {rows})"
        )


def seal_canary(keys: Sequence[Secret]) -> Sealed | None:
    """Return a word that only the keys open; None without keys."""
    return KeyRing(keys).seal(_CANARY, _PLACE) if keys else None


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a backup. Raises Refusal."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            stored = json.loads(file.read(MANIFEST_BYTES_MAX))
        if stored["format"] != FORMAT:
            raise Refusal(
                "other_backup_format",
                f"{folder}: it has the format {stored['format']}, and this release reads {FORMAT}. "
                "Restore it with the release that made it.",
            )
        return _parse(stored)
    except OSError as error:
        raise Refusal("no_backup", f"{folder} is no backup ({error.strerror}: {path}).") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(
            "manifest_unreadable", f"{path}: it is damaged ({type(error).__name__}: {error})."
        ) from None


def _parse(stored: Mapping[str, Any]) -> Manifest:
    positions, dump, canary = stored["positions"], stored["files"][DUMP], stored["canary"]
    position = Position(
        at=datetime.fromisoformat(stored["at"]),
        revision=str(stored["revision"]),
        executions=int(positions["executions"]),
        events=int(positions["events"]),
        audit_head=str(positions["audit_head"]),
        server=str(stored["server"]),
        bytes=int(stored["database_bytes"]),
    )
    sealed = canary and Sealed(
        canary["key_id"], bytes.fromhex(canary["wrapped_key"]), bytes.fromhex(canary["sealed"])
    )
    missing = {str(key): int(rows) for key, rows in stored.get("missing_keys", {}).items()}
    return Manifest(stored["opsjobs"], position, dump["bytes"], dump["sha256"], sealed, missing)


# --- the dump


def check_dump(path: Path) -> None:
    """Read the whole dump, as a restore would. Raises Refusal if it is damaged."""
    done = subprocess.run(  # noqa: S603  our own arguments
        [client_program("pg_restore"), "--file=/dev/null", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refusal("dump_damaged", f"{path}: it cannot be read: {done.stderr.strip()}")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sums(folder: Path, manifest: Manifest) -> None:
    """Raise Refusal if the dump is not the one that the manifest was written for."""
    path = folder / DUMP
    try:
        same = (path.stat().st_size, hash_file(path)) == (manifest.dump_bytes, manifest.dump_sha256)
    except OSError as error:
        raise Refusal("dump_unreadable", f"{path}: {error.strerror}.") from None
    if not same:
        raise Refusal(
            "dump_damaged",
            f"{path}: its size or its SHA-256 is not the manifest's. Use another backup.",
        )


# --- keys


def write_keys(path: Path, backup: str, values: Mapping[str, str]) -> None:
    """Write a file with the keys of a backup, mode 0600, as an environment file."""
    lines = [f"# Keys of the backup {backup}: with both, every stored credential can be read."]
    write_private(path, [*lines, *(f"{name}={value}" for name, value in values.items())])


def read_keys_file(path: Path) -> dict[str, str]:
    """Return the values of a file that `write_keys` has written. Raises Refusal."""
    try:
        with path.open() as file:
            lines = file.read(KEYS_BYTES_MAX).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal("keys_unreadable", f"{path}: {error}.") from None
    found = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    if "ENCRYPTION_KEYS" not in found:
        raise Refusal(
            "keys_unreadable", f"{path}: there is no line ENCRYPTION_KEYS=…; is it the keys file?"
        )
    return {name: value for name, value in found.items() if name in KEY_NAMES}
