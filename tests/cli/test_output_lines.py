"""Remote output as it reaches the terminal."""

from __future__ import annotations

import base64
from typing import Any

from opsjobs.cli.terminal import PARTIAL_BYTES_MAX, OutputLines

NAMES = {"1": "web-1", "2": "web-2"}


class CapturedOutput:
    """Collects the lines."""

    def __init__(self) -> None:
        self.stdout = b""
        self.stderr = b""

    def write(self, stream: str, portion: bytes) -> None:
        setattr(self, stream, getattr(self, stream) + portion)


def out(
    target: int, data: str | bytes, *, stream: str = "stdout", action: str = "step-1"
) -> dict[str, Any]:
    event = {
        "target_run": 10 + target,
        "target": str(target),
        "action": action,
        "attempt": 1,
        "stream": stream,
        "offset": 0,
    }
    if isinstance(data, bytes):
        return {**event, "data_base64": base64.b64encode(data).decode()}
    return {**event, "data": data}


def several() -> tuple[CapturedOutput, OutputLines]:
    captured = CapturedOutput()
    return captured, OutputLines(captured.write, NAMES.__getitem__)


def test_output_of_one_target_is_passed_unchanged() -> None:
    captured = CapturedOutput()
    lines = OutputLines(captured.write, None)
    lines.output(out(1, b"\x00\xff\xfe no end"))
    lines.output(out(1, "grüße", stream="stderr"))
    assert (captured.stdout, captured.stderr) == (b"\x00\xff\xfe no end", "grüße".encode())


def test_output_lines_of_several_targets_are_prefixed() -> None:
    captured, lines = several()
    lines.output(out(1, "a\nb\n"))
    lines.output(out(2, b"\xff\n"))
    lines.output(out(2, "oops\n", stream="stderr"))
    assert captured.stdout == b"web-1 | a\nweb-1 | b\nweb-2 | \xff\n"
    assert captured.stderr == b"web-2 | oops\n"


def test_partial_output_lines_are_not_mixed() -> None:
    captured, lines = several()
    lines.output(out(1, "he"))
    lines.output(out(2, "wo"))
    lines.output(out(1, "ERR", stream="stderr"))
    lines.output(out(1, "llo\n"))
    lines.output(out(2, "rld\n"))
    assert captured.stdout == b"web-1 | hello\nweb-2 | world\n"
    assert captured.stderr == b""
    lines.finish(11)
    assert captured.stderr == b"web-1 | ERR\n"


def test_empty_output_lines_are_kept() -> None:
    captured, lines = several()
    lines.output(out(1, "\n\na\n"))
    assert captured.stdout == b"web-1 | \nweb-1 | \nweb-1 | a\n"


def test_the_end_of_an_action_flushes_its_partial_line() -> None:
    captured, lines = several()
    lines.output(out(1, "one", action="survey"))
    lines.output(out(1, "two", action="work"))
    lines.finish(11, "survey")
    assert captured.stdout == b"web-1 | one\n"
    lines.finish()
    assert captured.stdout == b"web-1 | one\nweb-1 | two\n"


def test_an_endless_output_line_is_flushed_at_a_limit() -> None:
    captured, lines = several()
    lines.output(out(1, "x" * (PARTIAL_BYTES_MAX + 1)))
    assert captured.stdout == b"web-1 | " + b"x" * (PARTIAL_BYTES_MAX + 1) + b"\n"


def test_dropped_output_is_reported_on_stderr() -> None:
    captured, lines = several()
    lines.output({**out(1, ""), "data": None, "dropped": 123})
    assert captured.stderr == "web-1 | … 123 bytes of stdout were dropped (output_limit)\n".encode()
