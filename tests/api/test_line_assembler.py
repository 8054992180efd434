"""Chunks become prefixed lines."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from opsjobs.api.log_formats import HELD_BYTES, LINE_BYTES, LineAssembler
from opsjobs.store.execution_log import LogEntry

NAMES = {1: "web-1", 2: "web-2"}


def chunk(
    run: int,
    data: bytes | None,
    *,
    stream: str = "stdout",
    action: str = "step-1",
    dropped: int | None = None,
) -> LogEntry:
    return LogEntry(
        1, datetime.now(UTC), "output", run, str(run), action, 1, stream, 0, data, dropped, None
    )


def test_lines_of_two_targets_are_not_mixed() -> None:
    lines = LineAssembler(NAMES)
    assert lines.feed(chunk(1, b"one\ntw")) == b"web-1 | one\n"
    assert lines.feed(chunk(2, b"eins\n")) == b"web-2 | eins\n"
    assert lines.feed(chunk(1, b"o\n\nthree")) == b"web-1 | two\nweb-1 | \n"
    assert lines.rest() == b"web-1 | three\n"
    assert lines.rest() == b""


def test_the_next_action_begins_on_a_line_of_its_own() -> None:
    lines = LineAssembler(NAMES)
    assert lines.feed(chunk(1, b"no line feed")) == b""
    assert (
        lines.feed(chunk(1, b"next\n", action="step-2")) == b"web-1 | no line feed\nweb-1 | next\n"
    )


def test_dropped_output_is_a_line_of_its_own() -> None:
    lines = LineAssembler(NAMES)
    lines.feed(chunk(1, b"hea"))
    assert (
        lines.feed(chunk(1, None, dropped=7))
        == b"web-1 | hea\nweb-1 | [7 bytes of stdout were not kept]\n"
    )


def test_a_very_long_line_is_split() -> None:
    lines = LineAssembler(NAMES)
    out = b"".join(lines.feed(chunk(1, b"x" * 60_000)) for _ in range(10)) + lines.rest()
    assert out.count(b"x") == 600_000
    assert max(map(len, out.split(b"\n"))) <= LINE_BYTES + len(b"web-1 | ")


def test_incomplete_lines_of_ten_thousand_streams_are_bounded() -> None:
    lines = LineAssembler({})
    out = sum(len(lines.feed(chunk(run, b"x" * 1_000))) for run in range(10_000))
    assert out >= 10_000 * 1_000 - HELD_BYTES - 2_000


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=20)), max_size=30))
def test_every_byte_comes_out_in_order(chunks: list[tuple[int, bytes]]) -> None:
    lines = LineAssembler(NAMES)
    out = b"".join(lines.feed(chunk(run, data)) for run, data in chunks) + lines.rest()
    for run, name in NAMES.items():
        prefix = name.encode() + b" | "
        told = b"\n".join(
            line.removeprefix(prefix) for line in out.split(b"\n") if line.startswith(prefix)
        )
        assert told == b"".join(data for r, data in chunks if r == run).removesuffix(b"\n")
