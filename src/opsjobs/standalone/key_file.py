"""The file with the encryption keys of one `up`: one a line, the current one first."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from opsjobs.model.encryption_key import KEY_BYTES, decoded, encoded, key_id

KEYS_FILE = "keys"


def new_key() -> tuple[str, str]:
    """A new key: its text, and its id."""
    raw = secrets.token_bytes(KEY_BYTES)
    return encoded(raw), key_id(raw)


def put_first(path: Path) -> str:
    """Make a new key the current one from the next start on; those before it still open. Its id."""
    text, made = new_key()
    write_private(path, [text, *read(path)])
    return made


def drop(path: Path, unwanted: str) -> bool:
    """Take a key out by its id, which is not the first one's; False where there is no such key behind the first."""
    first, *older = read(path)
    kept = [text for text in older if key_id(decoded(text)) != unwanted]
    if len(kept) == len(older):
        return False
    write_private(path, [first, *kept])
    return True


def read(path: Path) -> list[str]:
    """The texts of the keys, current first."""
    return [line.strip() for line in path.read_text().replace(",", "\n").splitlines() if line.strip()]


def write_private(path: Path, lines: list[str]) -> None:
    """Whole or not at all, mode 0600, and on the disk: a key that is lost cannot be made again."""
    making = path.with_name(path.name + ".making")
    making.unlink(missing_ok=True)
    with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    _owned_alike(making, path)
    making.replace(path)


def _owned_alike(making: Path, path: Path) -> None:
    """The same owner as before, where root changes another one's file."""
    if os.geteuid() == 0 and path.exists():
        before = path.stat()
        os.chown(making, before.st_uid, before.st_gid)
