"""The logs of the processes of one `up`: one JSON object a line, in files of bounded size.

Processes write to pipes. A thread reads them, wraps every line that is not a log line of opsjobs
already (of PostgreSQL, of Valkey, a crash), and rotates the files without losing a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

LOG_BYTES_MAX = 16 << 20
"""The size of a log file at which it becomes `.log.1`, in place of the previous one."""
LINE_BYTES_MAX = 64 << 10
"""A longer line is cut into several."""
READ_BYTES = 64 << 10
CLOSE_SECONDS = 2.0
TAIL_BYTES = 64 << 10
TAIL_LINES = 20

LineFields = dict[str, Any]

_KEYS = ("timestamp", "level", "event")
_POSTGRES = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[(?P<pid>\d+)\] (?P<word>[A-Z]+\d?):  "
)
_POSTGRES_LEVELS = {
    "WARNING": "warning",
    "ERROR": "error",
    "FATAL": "critical",
    "PANIC": "critical",
}
# Lines that belong to the line before them.
_POSTGRES_PARTS = frozenset({"DETAIL", "HINT", "CONTEXT", "STATEMENT", "QUERY", "LOCATION"})
_VALKEY = re.compile(r"(?P<pid>\d+):[A-Z] \d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d{3} (?P<mark>[.*#-]) ")
_VALKEY_LEVELS = {".": "debug", "-": "debug", "*": "info", "#": "warning"}


class LineFormat(Protocol):
    """The format of the lines of one kind of program."""

    def parse(self, text: str) -> LineFields | None:
        """Return the log line; None if the text continues the previous one, which is changed."""

    def end_batch(self) -> None:
        """Note that the lines so far are being written and must not be changed any more."""


class PlainLines:
    """Lines of any program: each is an event."""

    def parse(self, text: str) -> LineFields | None:
        """Return the text as the event."""
        return {"timestamp": _now(), "level": "info", "event": text}

    def end_batch(self) -> None:
        """Do nothing: no line is changed."""


class PostgresLines:
    """Lines of PostgreSQL's stderr log with the prefix `%m [%p] ` in UTC."""

    def __init__(self) -> None:
        self._last: LineFields | None = None
        self._part = "event"

    def parse(self, text: str) -> LineFields | None:
        """Return the log line; details and further lines become keys of the line before."""
        found = _POSTGRES.match(text)
        if found is None:
            if self._last is None or not text.startswith("\t"):
                return self._begin(PlainLines().parse(text))
            self._last[self._part] += f"\n{text[1:]}"
            return None
        word, rest = found["word"], text[found.end() :]
        if word in _POSTGRES_PARTS and self._last is not None:
            self._part = word.lower()
            self._last[self._part] = rest
            return None
        at = datetime.fromisoformat(f"{found['at']}+00:00")
        return self._begin(
            {
                "timestamp": _render_time(at),
                "level": _POSTGRES_LEVELS.get(
                    word, "debug" if word.startswith("DEBUG") else "info"
                ),
                "event": rest,
                "pid": int(found["pid"]),
            }
        )

    def end_batch(self) -> None:
        """Let nothing be added to the last line."""
        self._last = None

    def _begin(self, line: LineFields | None) -> LineFields | None:
        self._last, self._part = line, "event"
        return line


class ValkeyLines(PlainLines):
    """Lines of Valkey's own log format."""

    def parse(self, text: str) -> LineFields | None:
        """Return the log line."""
        found = _VALKEY.match(text)
        if found is None:
            return super().parse(text)
        return {
            "timestamp": _now(),
            "level": _VALKEY_LEVELS[found["mark"]],
            "event": text[found.end() :],
            "pid": int(found["pid"]),
        }


class ProcessLog:
    """The log of one process name; a process that is started again continues it."""

    def __init__(self, collector: LogCollector, path: Path, kind: Callable[[], LineFormat]) -> None:
        self.path = path
        self.kind = kind
        self.process = path.stem
        self._collector = collector

    def open(self) -> IO[bytes]:
        """Return the writing end of a new pipe, for one process."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._collector.add_pipe(reader, self)
        return os.fdopen(writer, "wb", buffering=0)

    def last_error(self) -> str:
        """Return the last error that the processes have written so far; see `last_error`."""
        self._collector.drain()
        return last_error(self.path)


class LogCollector:
    """Reads the pipes of all processes on one thread, and writes their log files."""

    def __init__(self, folder: Path, *, bytes_at_most: int = LOG_BYTES_MAX) -> None:
        self._folder = folder
        self._bytes_at_most = bytes_at_most
        self._selector = selectors.DefaultSelector()
        self._files: dict[Path, _RotatedFile] = {}
        self._lock = threading.Lock()
        self._new: list[tuple[int, ProcessLog]] = []
        self._drained = threading.Event()
        self._draining = self._stopping = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="collect-logs", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """True from `start` to `stop`."""
        return self._thread.is_alive()

    def log(self, process: str, kind: Callable[[], LineFormat] = PlainLines) -> ProcessLog:
        """Return the log `<process>.log`."""
        return ProcessLog(self, self._folder / f"{process}.log", kind)

    def write(self, process: str, text: str, *, level: str = "info") -> None:
        """Write a line that does not come through a pipe, or several."""
        for line in text.splitlines():
            event = {"timestamp": _now(), "level": level, "event": line, "process": process}
            self._append(self._folder / f"{process}.log", [_encode(event)])

    def drain(self) -> None:
        """Wait until everything that was written to the pipes so far is in the files."""
        if self._thread.is_alive():
            self._drained.clear()
            self._draining = True
            self._wake()
            self._drained.wait(CLOSE_SECONDS)

    def stop(self) -> None:
        """Write what is in the pipes, and end the thread."""
        if self._stopping:
            return
        self.drain()
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        for file in self._files.values():
            file.close()
        self._files.clear()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()

    def add_pipe(self, reader: int, log: ProcessLog) -> None:
        """Read this pipe into this log until its end."""
        with self._lock:
            self._new.append((reader, log))
        self._wake()

    def _wake(self) -> None:
        os.write(self._wake_writer, b".")

    def _run(self) -> None:
        while not self._stopping:
            draining, self._draining = self._draining, False
            self._register_new()
            for key, _ in self._selector.select(0 if draining else None):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_reader, READ_BYTES)
                elif not key.data.read():
                    self._selector.unregister(key.fd)
                    os.close(key.fd)
            if draining:
                self._drained.set()

    def _register_new(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        for reader, log in new:
            pipe = _LogPipe(reader, log, self._append)
            self._selector.register(reader, selectors.EVENT_READ, pipe)

    def _append(self, path: Path, lines: Sequence[bytes]) -> None:
        with self._lock:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = _RotatedFile(path, self._bytes_at_most)
            file.append(lines)


class _LogPipe:
    """The reading end of one process's pipe."""

    def __init__(
        self, reader: int, log: ProcessLog, append: Callable[[Path, Sequence[bytes]], None]
    ) -> None:
        self._reader = reader
        self._log = log
        self._append = append
        self._format = log.kind()
        self._rest = b""

    def read(self) -> bool:
        """Move what is there to the file; return False at the end."""
        data = b""
        while len(data) < 16 * READ_BYTES:
            try:
                portion = os.read(self._reader, READ_BYTES)
            except BlockingIOError:
                self._write(data)
                return True
            if not portion:
                self._write(data)
                self._write_lines([self._rest] if self._rest else [])
                return False
            data += portion
        self._write(data)
        return True

    def _write(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]
        self._write_lines(lines)

    def _write_lines(self, lines: list[bytes]) -> None:
        found: list[LineFields | bytes] = []
        for line in lines:
            if _is_log_line(line):
                found.append(line)
            elif text := line.decode("utf-8", "backslashreplace").rstrip():
                parsed = self._parse(text)
                if parsed is not None:
                    found.append(parsed)
        self._format.end_batch()
        if found:
            lines = [one if isinstance(one, bytes) else self._encode(one) for one in found]
            self._append(self._log.path, lines)

    def _parse(self, text: str) -> LineFields | None:
        try:
            return self._format.parse(text)
        except Exception:  # noqa: BLE001  all processes would wait for the thread that reads
            return PlainLines().parse(text)

    def _encode(self, line: LineFields) -> bytes:
        return _encode({**line, "process": self._log.process})


class _RotatedFile:
    """A log file that is renamed to `.log.1` when it is full."""

    def __init__(self, path: Path, bytes_at_most: int) -> None:
        self._path = path
        self._bytes_at_most = bytes_at_most
        self._file: IO[bytes] | None = None
        self._size = path.stat().st_size if path.exists() else 0

    def append(self, lines: Sequence[bytes]) -> None:
        """Append these lines; an error of the disk loses them, and stops nothing."""
        with contextlib.suppress(OSError):
            portion: list[bytes] = []
            for line in lines:
                if self._size and self._size + len(line) >= self._bytes_at_most:
                    self._write(portion)
                    portion = []
                    self._rotate()
                portion.append(line)
                self._size += len(line) + 1
            self._write(portion)

    def _write(self, lines: Sequence[bytes]) -> None:
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        self._file.write(b"".join(line + b"\n" for line in lines))

    def _rotate(self) -> None:
        self.close()
        self._path.replace(self._path.with_suffix(".log.1"))
        self._size = 0

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def last_error(path: Path) -> str:
    """Return the last error in the tail of a log, else its last line, as words."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = [line for line in file.read().splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    found = [_describe(line) for line in lines[-TAIL_LINES:]]
    errors = [text for text, is_error in found if is_error]
    return (errors or [text for text, _ in found] or ["its log is empty"])[-1]


def _describe(data: bytes) -> tuple[str, bool]:
    """Return a line as words, and True if it is an error."""
    if not _is_log_line(data):
        text = data.decode(errors="replace").strip()
        return text, "FATAL" in text or "error" in text.lower()
    line = json.loads(data)
    exception = str(line.get("exception") or "").strip().splitlines()
    reason = exception[-1] if exception else line.get("reason")
    text = str(line["event"])
    return f"{text}: {reason}" if reason else text, line["level"] in ("error", "critical")


def _is_log_line(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(isinstance(found.get(key), str) for key in _KEYS)


def _encode(line: LineFields) -> bytes:
    return json.dumps(line).encode()


def _now() -> str:
    return _render_time(datetime.fromtimestamp(time.time(), UTC))


def _render_time(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
