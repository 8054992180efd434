"""The terminal: remote output on stdout and stderr, notices, and a status line."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from typing import Any

from opsjobs.cli.render import has_colours, paint, plain
from opsjobs.cli.terminal_escapes import EscapedOutput

_CLEAR = b"\r\x1b[K"


class Terminal:
    """Writer for stdout and stderr that keeps the order, also if both are one terminal.

    On a terminal, control characters of remote bytes are escaped (`terminal_escapes`) unless `raw`.
    The status line is drawn only if stderr is a terminal, and only below whole lines; it is never
    part of piped output. Thread-safe.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._raw = raw
        self._shown = {"stdout": EscapedOutput(), "stderr": EscapedOutput()}
        self._lock = threading.RLock()
        self._last = "stdout"
        self._open_line = False
        self._status = ""
        self._drawn = False
        self.draws = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._marks_stderr = has_colours(sys.stderr)

    def write(self, stream: str, portion: bytes) -> None:
        """Write remote bytes to one of the streams, after flushing the other.

        All remote bytes pass here.
        """
        if not self._raw and self._file(stream).isatty():
            portion = self._shown[stream].feed(portion)
        self._write(stream, portion)

    def _write(self, stream: str, portion: bytes) -> None:
        if not portion:
            return
        with self._lock:
            self._erase()
            if stream != self._last:
                self._file(self._last).flush()
                self._last = stream
            red = stream == "stderr" and self._marks_stderr and b"\x1b" not in portion
            self._file(stream).write(b"\x1b[31m%b\x1b[0m" % portion if red else portion)
            if self._file(stream).isatty():
                self._open_line = not portion.endswith(b"\n")

    def notice(self, text: str, style: str | None = None) -> None:
        """Print a message on lines of its own on stderr."""
        with self._lock:
            self._erase()
            self.close_line()
            sys.stderr.write(
                "".join(f"{paint(plain(line), style, sys.stderr)}\n" for line in text.split("\n"))
            )
            sys.stderr.flush()
            self._draw()

    def status(self, text: str) -> None:
        """Set the status line; an empty one removes it."""
        with self._lock:
            if self._drawn and text == self._status:
                return
            self._erase()
            self._status = text
            self._draw()

    def flush(self) -> None:
        """Flush the output."""
        with self._lock:
            self._file(self._last).flush()
            self._draw()

    def close_line(self) -> None:
        """Start a new line if remote output ended without one on a terminal."""
        with self._lock:
            for stream, shown in self._shown.items():
                self._write(stream, shown.feed(b"", final=True))
            if self._open_line:
                self._erase()
                self._file(self._last).write(b"\n")
                self._open_line = False
            self._file(self._last).flush()

    def _erase(self) -> None:
        if self._drawn:
            self._file("stderr").write(_CLEAR)
            self._file("stderr").flush()
            self._drawn = False

    def _draw(self) -> None:
        if not self.draws or self._open_line or self._drawn or not self._status:
            return
        width = shutil.get_terminal_size().columns
        line = (
            self._status if len(self._status) < width else self._status[: max(width - 2, 0)] + "…"
        )
        self._file("stderr").write(_CLEAR + paint(plain(line), "dim", sys.stderr).encode())
        self._file("stderr").flush()
        self._drawn = True

    def _file(self, stream: str) -> Any:
        return sys.stderr.buffer if stream == "stderr" else sys.stdout.buffer
