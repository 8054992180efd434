"""The file with the encryption keys of one `up`: one key per line, the current one first."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from opsjobs.model.encryption_key import KEY_BYTES, decoded, encoded, key_id

KEYS_FILE = "keys"


def new_key() -> tuple[str, str]:
    """Return the text and the id of a new key."""
    raw = secrets.token_bytes(KEY_BYTES)
    return encoded(raw), key_id(raw)


def put_first(path: Path) -> str:
    """Put a new key first, to be the current one from the next start on; return its id.

    The older keys stay in the file and still decrypt.
    """
    text, made = new_key()
    write_private(path, [text, *read(path)])
    return made


def drop(path: Path, unwanted: str) -> bool:
    """Remove an older key by its id; return False if no key after the first has this id.

    The first key is the current one and is never removed.
    """
    first, *older = read(path)
    kept = [text for text in older if key_id(decoded(text)) != unwanted]
    if len(kept) == len(older):
        return False
    write_private(path, [first, *kept])
    return True


def read(path: Path) -> list[str]:
    """Return the texts of the keys, the current one first."""
    return [
        line.strip() for line in path.read_text().replace(",", "\n").splitlines() if line.strip()
    ]


def write_private(path: Path, lines: list[str]) -> None:
    """Replace the file atomically, with mode 0600 and fsync: a lost key cannot be recreated."""
    making = path.with_name(path.name + ".making")
    making.unlink(missing_ok=True)
    with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    _owned_alike(making, path)
    making.replace(path)


def _owned_alike(making: Path, path: Path) -> None:
    """Keep the previous owner if root rewrites a file of another user."""
    if os.geteuid() == 0 and path.exists():
        before = path.stat()
        os.chown(making, before.st_uid, before.st_gid)
