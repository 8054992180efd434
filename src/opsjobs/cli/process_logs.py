"""`opsjobs logs`: the log lines of the processes of a local `up`, merged by time."""

from __future__ import annotations

import heapq
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, Self

import typer

from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain
from opsjobs.cli.options import split
from opsjobs.cli.render import paint
from opsjobs.model.units import parse_duration
from opsjobs.settings import load_client

LINES = 200
"""Lines that are shown if no option selects others."""
POLL_SECONDS = 0.25
LINE_BYTES_MAX = 1 << 20


class LogLevel(StrEnum):
    """Levels of log lines, the lowest first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


_RANKS = {level.value: rank for rank, level in enumerate(LogLevel)}
_STYLES = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "red"}
# Shown in front of the other keys, or left out.
_HEAD = frozenset({"timestamp", "level", "event", "process", "exception"})
# Shown behind all other keys.
_IDS = frozenset({"request_id", "trace_id"})


@dataclass(frozen=True, slots=True)
class LoggedLine:
    """One line of a log file."""

    at: str
    """Its timestamp: RFC 3339 in UTC, so that the order of texts is the order of times."""
    raw: str
    fields: dict[str, Any]


def logs(
    *,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Keep showing new lines, until Ctrl-C.")
    ] = False,
    execution: Annotated[
        int | None,
        typer.Option(help="Only lines of this execution, and of the request that launched it."),
    ] = None,
    process: Annotated[
        list[str] | None,
        typer.Option(help="Only these processes, such as worker-1 or postgres. May be repeated."),
    ] = None,
    level: Annotated[
        LogLevel | None,
        typer.Option(case_sensitive=False, help="Only lines of at least this level."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only lines of the last 30s, 5m, 2h …")
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--lines",
            min=0,
            help=(
                "Only the last lines; 0 shows all (default: 200; all with --execution or --since)."
            ),
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the lines as they are: one line of JSON each.")
    ] = False,
) -> None:
    """Show the logs of the processes of `opsjobs up` on this machine, merged by time.

    They are the files in logs/ of the data folder. Processes that were started one by one log to
    their standard output.
    """
    folder = load_client()[1] / "logs"
    wanted = _LineFilter(_parse_since(since), execution, frozenset(split(process)), level)
    show = _show_raw if as_json else _show
    limit = LINES if lines is None and since is None and execution is None else lines
    with _LogFiles(folder, wanted.processes) as files:
        files.require()
        with _LogFiles(folder, frozenset()) as all_files:
            wanted.find_traces(all_files)
        found = wanted.select(heapq.merge(*files.read_all(), key=lambda entry: entry.at))
        shown: Iterable[LoggedLine] = deque(found, maxlen=limit) if limit else found
        for entry in shown:
            show(entry)
        sys.stdout.flush()
        while follow:
            time.sleep(POLL_SECONDS)
            new = sorted((one for file in files.read_new() for one in file), key=lambda e: e.at)
            for entry in wanted.select(new):
                show(entry)
            sys.stdout.flush()


def _parse_since(text: str | None) -> str:
    """Return the earliest timestamp to show. Raises CommandFailed for an invalid duration."""
    if text is None:
        return ""
    try:
        since = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise CommandFailed(f"--since: {error}", ExitCode.USAGE) from None
    except OverflowError:
        return ""  # longer ago than any line
    return since.isoformat(timespec="microseconds")


@dataclass(slots=True)
class _LineFilter:
    """The lines to show."""

    since: str
    execution: int | None
    processes: frozenset[str]
    level: LogLevel | None
    traces: set[str] = field(default_factory=set)
    """The traces of lines of the execution: the request that launched it has only the trace."""

    def find_traces(self, files: _LogFiles) -> None:
        """Find the traces of the execution in the logs of all processes."""
        if self.execution is not None:
            for file in files.read_all():
                for entry in file:
                    self._note_trace(entry)

    def select(self, entries: Iterable[LoggedLine]) -> Iterator[LoggedLine]:
        """Yield the entries to show."""
        for entry in entries:
            self._note_trace(entry)
            if self._matches(entry):
                yield entry

    def _note_trace(self, entry: LoggedLine) -> None:
        trace = entry.fields.get("trace_id")
        if self.execution is not None and entry.fields.get("execution") == self.execution and trace:
            self.traces.add(trace)

    def _matches(self, entry: LoggedLine) -> bool:
        fields = entry.fields
        if entry.at < self.since:
            return False
        rank = _RANKS.get(str(fields.get("level")), _RANKS["info"])
        if self.level is not None and rank < _RANKS[self.level.value]:
            return False
        if self.execution is None:
            return True
        of = fields.get("execution")
        return of == self.execution if of is not None else fields.get("trace_id") in self.traces


class _LogFiles:
    """The log files of a folder, and how far each has been read."""

    def __init__(self, folder: Path, processes: frozenset[str]) -> None:
        self._folder = folder
        self._processes = processes
        self._open: dict[str, _OpenLog] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for log in self._open.values():
            log.close()

    def require(self) -> None:
        """Raise CommandFailed if there are no logs, or none of a process that was named."""
        names = {path.stem for path in self._paths("*.log")}
        if not names:
            raise CommandFailed(
                f"no logs: {self._folder} has none. `opsjobs up` writes them there "
                "(for an `up` with its own --data-dir, set OPSJOBS_DATA_DIR); processes that were "
                "started one by one log to their standard output.",
                ExitCode.NOT_FOUND,
            )
        if unknown := sorted(self._processes - names):
            raise CommandFailed(
                f"--process: there is no log of {unknown[0]}. "
                f"There are: {', '.join(sorted(names))}",
                ExitCode.NOT_FOUND,
            )

    def read_all(self) -> list[Iterator[LoggedLine]]:
        """Return the entries of each process, the rotated file first, from the start."""
        return [self._read_process(name) for name in self._names()]

    def read_new(self) -> list[Iterator[LoggedLine]]:
        """Return the entries of each process since the last reading."""
        return [self._opened(name).read() for name in self._names()]

    def _read_process(self, name: str) -> Iterator[LoggedLine]:
        current = self._opened(name)
        older = self._folder / f"{name}.log.1"
        if older.exists():
            with closing(_OpenLog(older, name)) as rotated:
                yield from rotated.read()
        yield from current.read()

    def _opened(self, name: str) -> _OpenLog:
        if name not in self._open:
            self._open[name] = _OpenLog(self._folder / f"{name}.log", name)
        return self._open[name]

    def _names(self) -> list[str]:
        names = {path.stem for path in self._paths("*.log")}
        return sorted(names & self._processes if self._processes else names)

    def _paths(self, pattern: str) -> list[Path]:
        try:
            return [
                Path(entry)
                for entry in os.scandir(self._folder)
                if entry.name.endswith(pattern[1:])
            ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError:
            raise CommandFailed(
                f"{self._folder} belongs to another user: run the command as that user.",
                ExitCode.NOT_ALLOWED,
            ) from None


class _OpenLog:
    """One log file that is being read, over its rotations."""

    def __init__(self, path: Path, process: str) -> None:
        self._path = path
        self._process = process
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> Iterator[LoggedLine]:
        """Yield the whole lines that are new."""
        if self._file is None:
            self._file = self._reopen()
        while self._file is not None:
            yield from self._read_lines(self._file)
            if not self._is_replaced(self._file):
                return
            self._file.close()
            self._file = self._reopen()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_lines(self, file: IO[bytes]) -> Iterator[LoggedLine]:
        while data := file.readline(LINE_BYTES_MAX):
            self._rest += data
            if self._rest.endswith(b"\n") or len(self._rest) >= LINE_BYTES_MAX:
                line, self._rest = self._rest, b""
                if line.strip():
                    yield _parse(line, self._process)

    def _is_replaced(self, file: IO[bytes]) -> bool:
        try:
            return os.fstat(file.fileno()).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return False

    def _reopen(self) -> IO[bytes] | None:
        self._rest = b""
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None


def _parse(line: bytes, process: str) -> LoggedLine:
    text = line.decode("utf-8", "backslashreplace").strip()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        fields = {"event": text}
    return LoggedLine(str(fields.get("timestamp", "")), text, {**fields, "process": process})


def _show_raw(entry: LoggedLine) -> None:
    sys.stdout.write(f"{entry.raw}\n")


def _show(entry: LoggedLine) -> None:
    """Print an entry for people: time, level, process, event, and its other keys."""
    fields, file = entry.fields, sys.stdout
    level = str(fields.get("level", "info"))
    style = _STYLES.get(level)
    keys = sorted((key for key in fields if key not in _HEAD), key=lambda key: key in _IDS)
    rest = " ".join(
        f"{plain(key)}={_render_value(fields[key])}" for key in keys if fields[key] is not None
    )
    parts = (
        paint(_render_time(entry.at), "dim", file),
        paint(f"{plain(level).upper():<8}", style, file),
        paint(f"{plain(fields.get('process')):<10}", "cyan", file),
        paint(plain(fields.get("event")), style if level != "debug" else None, file),
        paint(rest, "dim", file),
    )
    file.write(" ".join(part for part in parts if part).rstrip() + "\n")
    for line in str(fields.get("exception") or "").splitlines():
        file.write(f"    {plain(line)}\n")


def _render_value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return plain(text if text and " " not in text and '"' not in text else json.dumps(text))


def _render_time(at: str) -> str:
    """Return the local time with milliseconds; an unreadable one as it is."""
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        return plain(at) or "-"
    return found.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
