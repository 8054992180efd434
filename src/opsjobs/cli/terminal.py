"""Write remote output and notices to the terminal, with a status line below them."""

from __future__ import annotations

import base64
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from opsjobs.cli.messages import plain
from opsjobs.cli.render import has_colours, paint
from opsjobs.cli.terminal_escapes import EscapedOutput

_CLEAR = b"\r\x1b[K"


class Terminal:
    """Writer for stdout and stderr that keeps the order, even if both are one terminal.

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

        All remote bytes are written by this method.
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
        """Print a message on separate lines on stderr."""
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


# --- lines of remote output


PARTIAL_BYTES_MAX = 65_536  # an incomplete line is not held back for longer

Write = Callable[[str, bytes], None]
"""A function that writes bytes to "stdout" or "stderr"."""

Source = tuple[object, object, object, str]
"""One stream of one action: target run, action, attempt, stdout or stderr."""


class OutputLines:
    """Writer of output events.

    With `names`, each line starts with `NAME | ` and is never mixed with another target's.
    """

    def __init__(self, write: Write, names: Callable[[str], str] | None) -> None:
        self._write = write
        self._names = names
        self._partial: dict[Source, bytes] = {}
        self._prefix: dict[str, bytes] = {}
        self._of: dict[Source, str] = {}

    def output(self, event: dict[str, Any]) -> None:
        """Write one `output` event: its bytes, or the notice that some were dropped."""
        source = (
            event.get("target_run"),
            event.get("action"),
            event.get("attempt"),
            _stream_of(event),
        )
        if self._names is None:
            self._write(source[3], bytes_of(event))
            return
        self._of[source] = str(event.get("target"))
        *whole, rest = (self._partial.pop(source, b"") + bytes_of(event)).split(b"\n")
        if len(rest) > PARTIAL_BYTES_MAX:
            whole, rest = [*whole, rest], b""
        self._put(source, whole)
        if rest:
            self._partial[source] = rest

    def finish(self, target_run: object = None, action: object = None) -> None:
        """Write incomplete lines: of an action, of a run (action None) or of all (both None)."""
        for source in [
            s for s in self._partial if target_run in (None, s[0]) and action in (None, s[1])
        ]:
            self._put(source, [self._partial.pop(source)])

    def _put(self, source: Source, lines: list[bytes]) -> None:
        if not lines:
            return
        prefix = self._prefixed(self._of[source])
        self._write(source[3], b"".join(b"%b%b\n" % (prefix, line) for line in lines))

    def _prefixed(self, target: str) -> bytes:
        if target not in self._prefix:
            assert self._names is not None
            self._prefix[target] = f"{self._names(target)} | ".encode()
        return self._prefix[target]


def _stream_of(event: dict[str, Any]) -> str:
    return "stderr" if event.get("stream") == "stderr" or event.get("dropped") else "stdout"


def bytes_of(event: Mapping[str, Any]) -> bytes:
    """Return the bytes of an `output` event, or the notice that some were dropped."""
    if event.get("dropped"):
        stream = event.get("stream")
        return f"… {event['dropped']} bytes of {stream} were dropped (output_limit)\n".encode()
    if "data_base64" in event:
        return base64.b64decode(event["data_base64"])
    return str(event.get("data") or "").encode("utf-8", "surrogatepass")
