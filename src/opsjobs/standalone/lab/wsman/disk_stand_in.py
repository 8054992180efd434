"""Perform the helper script `disk` of opsjobs in place of PowerShell, on the stand-in.

The beginning of its input was read already. It imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_LENGTHS = struct.Struct("<ii")
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


class ServedFiles:
    """Open files and listings by their handles."""

    def __init__(self) -> None:
        self._opened: dict[int, Any] = {}
        self._handles = 0

    def perform(self, asked: Any, data: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the answer to one request. Raises OSError."""
        found = getattr(self, f"_{asked['op']}")(asked, data)
        if isinstance(found, bytes):
            return {}, found
        return found or {}, b""

    def _add(self, what: Any) -> dict[str, Any]:
        self._handles += 1
        self._opened[self._handles] = what
        return {"handle": self._handles}

    def _hello(self, _asked: Any, _data: bytes) -> dict[str, Any]:
        return {"version": 1}

    def _look(self, asked: Any, _data: bytes) -> dict[str, Any] | None:
        path = Path(asked["path"])
        try:
            return {"entry": _entry(path.name, path.stat(follow_symlinks=asked["follow"]))}
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _list(self, asked: Any, _data: bytes) -> dict[str, Any]:
        return self._add(_walk(asked["path"]))

    def _next(self, asked: Any, _data: bytes) -> dict[str, Any]:
        return {"entries": [*islice(self._opened[asked["handle"]], asked["count"])]}

    def _open(self, asked: Any, _data: bytes) -> dict[str, Any]:
        return self._add(os.open(asked["path"], os.O_RDONLY))

    def _draft(self, asked: Any, _data: bytes) -> dict[str, Any]:
        new = os.O_CREAT | os.O_EXCL if asked["new"] else 0
        return self._add(os.open(asked["path"], os.O_WRONLY | new, 0o666))

    def _read(self, asked: Any, _data: bytes) -> bytes:
        return os.pread(self._opened[asked["handle"]], asked["size"], asked["offset"])

    def _write(self, asked: Any, data: bytes) -> None:
        offset, view = asked["offset"], memoryview(data)
        while view:
            written = os.pwrite(self._opened[asked["handle"]], view, offset)
            offset, view = offset + written, view[written:]

    def _sync(self, asked: Any, _data: bytes) -> None:
        os.fsync(self._opened[asked["handle"]])

    def _close(self, asked: Any, _data: bytes) -> None:
        done = self._opened.pop(asked["handle"], None)
        if isinstance(done, int):
            os.close(done)

    def _digest(self, asked: Any, _data: bytes) -> dict[str, Any]:
        with Path(asked["path"]).open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def _replace(self, asked: Any, _data: bytes) -> None:
        Path(asked["draft"]).replace(asked["path"])

    def _remove(self, asked: Any, _data: bytes) -> None:
        Path(asked["path"]).unlink(missing_ok=True)

    def _folder(self, asked: Any, _data: bytes) -> None:
        Path(asked["path"]).mkdir(parents=True, exist_ok=True)


def _walk(path: str) -> Iterator[dict[str, Any]]:
    with os.scandir(path) as entries:
        for entry in entries:
            yield _entry(entry.name, entry.stat(follow_symlinks=False))


def _entry(name: str, found: os.stat_result) -> dict[str, Any]:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
    return {"name": name, "kind": kind, "size": found.st_size, "modified": int(found.st_mtime)}


def _read_exactly(size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(0 if not data else 97)
        data += piece
    return bytes(data)


def main() -> None:
    """Answer requests until the input ends."""
    files = ServedFiles()
    while True:
        length, size = _LENGTHS.unpack(_read_exactly(_LENGTHS.size))
        asked, data = json.loads(_read_exactly(length)), _read_exactly(size) if size else b""
        try:
            answer, more = files.perform(asked, data)
        except OSError as error:
            answer, more = {"error": error.strerror or str(error)}, b""
        head = json.dumps(answer).encode()
        view = memoryview(_LENGTHS.pack(len(head), len(more)) + head + more)
        while view:
            view = view[os.write(1, view) :]
