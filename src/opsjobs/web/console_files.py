"""Built files of the console, in memory: small, and read by every viewer."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
GZIP_BYTES_MIN = 1_024
_HASHED = re.compile(r"-[A-Z0-9]{8}\.[a-z.]+")
_COMPRESSED = ("text/", "application/json", "image/svg")


@dataclass(frozen=True)
class ConsoleFile:
    """One built file.

    `immutable`: its name has a hash of its content, so it never changes.
    `zipped`: the content compressed with gzip, or None if that gains nothing.
    """

    content: bytes
    zipped: bytes | None
    media_type: str
    etag: str
    immutable: bool

    @classmethod
    def read(cls, path: Path) -> ConsoleFile:
        """Read a file."""
        content = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "text/plain"
        compress = media_type.startswith(_COMPRESSED) and len(content) >= GZIP_BYTES_MIN
        return cls(
            content,
            gzip.compress(content, mtime=0) if compress else None,
            f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type,
            f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            _HASHED.search(path.name) is not None,
        )


class ConsoleFiles:
    """The files of the console by name; none if it was not built.

    They are read again after a build, so that a developer needs no restart.
    """

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder
        self._built_at: int | None = None
        self._files: dict[str, ConsoleFile] = {}

    def index(self) -> ConsoleFile | None:
        """Return the page of the application, or None if the console was not built."""
        try:
            built_at = (self._folder / INDEX).stat().st_mtime_ns
            if built_at != self._built_at:
                self._files = {
                    path.name: ConsoleFile.read(path)
                    for path in sorted(self._folder.iterdir())
                    if path.is_file() and not path.name.startswith(".")
                }
                self._built_at = built_at
        except FileNotFoundError:
            self._files, self._built_at = {}, None
        return self._files.get(INDEX)

    def get(self, name: str) -> ConsoleFile | None:
        """Return the file with this name, or None if there is none."""
        if not self._files:
            self.index()
        return self._files.get(name)
