"""Output on its way to the log, and values that an action passes on.

Head, gap and tail, every byte at its place, and no more memory than allowed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import UTC, date, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from hypothesis import strategies as st

from engine.harness import harness, until
from kit.fake_remote import Gate
from opsjobs import failpoints
from opsjobs.clock import SystemClock
from opsjobs.engine.runs import run_journal as recording
from opsjobs.engine.runs.output import (
    OUTPUTS_BYTES_MAX,
    TAIL_BYTES,
    Capture,
    Outputs,
    StdoutCapture,
)
from opsjobs.engine.runs.run_journal import (
    CHUNK_BYTES,
    RUN_UNWRITTEN_BYTES,
    FlushBuilder,
    RunJournal,
)
from opsjobs.engine.worker.batch_writer import BatchWriter
from opsjobs.model.job import CommandAction
from opsjobs.model.masking import Forms, Mask
from opsjobs.remote.session import Output, RemoteExit, Stream
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import LogLine
from opsjobs.store.transaction import Database
from opsjobs.telemetry.metrics import Metrics

RUN = Claimed(1, UUID(int=1), 1, date(2026, 1, 1), "1", "web-1", 1, 1, 1, 0, None)


class RecordingSink:
    """Collects the rows of a journal, like the batch writer."""

    unwritten_bytes = 0

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self.record = RunJournal(self, RUN)
        if secrets:
            self.record.mask = Mask([Forms(secrets)])
        self.page = self.record.begin("step-1", 1, datetime.now(UTC))

    def mark_dirty(self, record: RunJournal, size_bytes: int) -> None:
        self.unwritten_bytes += size_bytes

    async def wait_for_flush(self) -> None:
        raise AssertionError("nobody waits here")

    def lines(self) -> list[LogLine]:
        draft = FlushBuilder()
        while not self.record.is_empty:
            self.record.take(draft)
        assert self.record.unwritten_bytes == 0
        return draft.lines


@pytest.mark.parametrize("mask", [(), ("Stra\u00dfe",)], ids=["plain", "redacted"])
@pytest.mark.parametrize("cut", [1, 9, 30, 57])
def test_decoded_output_is_read_again_from_its_start_and_nothing_is_stored_twice(
    cut: int, mask: tuple[str, ...]
) -> None:
    text = "Gr\u00f6\u00dfe 1\r\nStra\u00dfe\r\n" * 4
    written = text.encode("cp850")
    first = RecordingSink(mask)
    capture = Capture(first.page, 10_000, encoding="cp850", reread=True)
    capture.add(Output("stdout", written[:cut]))
    stored = sum(len(line.data or b"") for line in first.lines())
    heir = RecordingSink(mask)
    capture = Capture(heir.page, 10_000, (stored, 0), encoding="cp850", reread=True)
    assert capture.wanted == (0, 0)
    for at in range(0, len(written), 7):
        capture.add(Output("stdout", written[at : at + 7]))
    shown = text.replace("Stra\u00dfe", "*" * 7) if mask else text
    assert capture.finish()[0] == len(text.encode())
    rest = b"".join(line.data or b"" for line in heir.lines())
    assert len(rest) == len(text.encode()) - stored
    assert shown.encode().endswith(rest)


def test_what_later_actions_read_is_no_more_than_is_on_record_before_a_gap() -> None:
    sink, words = RecordingSink(), StdoutCapture("none")
    capture = Capture(sink.page, 10)
    data = "123456789ä".encode() + b"x" * (TAIL_BYTES + 5)
    capture.add(Output("stdout", data))
    words.add(data)
    capture.finish()
    assert words.text(capture.head_bytes) == "123456789"
    assert sink.lines()[0].data == b"123456789"


def test_where_nothing_is_left_out_later_actions_read_all_of_it() -> None:
    sink, words = RecordingSink(), StdoutCapture("none")
    capture = Capture(sink.page, 10)
    capture.add(Output("stdout", b"x" * 500))
    words.add(b"x" * 500)
    capture.finish()
    assert words.text(capture.head_bytes) == "x" * 500


# Characters of every length, bytes that are not text, long runs beyond a chunk and beyond the tail.
_texts = some.text(some.sampled_from("aä€😀\n"), max_size=40).map(str.encode)
_pieces = some.lists(
    some.one_of(
        _texts,
        some.binary(max_size=30),
        some.builds(
            lambda unit, times: unit * times,
            some.sampled_from([b"x", "€".encode(), "😀".encode(), b"\xff"]),
            some.integers(0, 40_000),
        ),
    ),
    max_size=12,
)
_cuts = some.lists(some.integers(0, 1 << 18), max_size=20)


@settings(max_examples=150, deadline=None)
@given(
    stdout=_pieces,
    stderr=_pieces,
    cuts=_cuts,
    limit=some.one_of(some.integers(0, 200), some.integers(0, 200_000)),
)
@example(stdout=["€".encode() * 40_000], stderr=[], cuts=[1, 2, 65_535, 65_537], limit=100_000)
def test_head_gap_and_tail_are_exactly_what_was_written(
    stdout: list[bytes], stderr: list[bytes], cuts: list[int], limit: int
) -> None:
    sink = RecordingSink()
    capture = Capture(sink.page, limit)
    whole: dict[Stream, bytes] = {"stdout": b"".join(stdout), "stderr": b"".join(stderr)}
    for stream, data in whole.items():
        for piece in _cut(data, cuts):
            capture.add(Output(stream, piece))
    assert capture.finish() == (len(whole["stdout"]), len(whole["stderr"]))
    lines = sink.lines()
    for stream, data in whole.items():
        _check([line for line in lines if line.stream == stream], data, limit)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return the data in pieces as they arrive from a machine: cut anywhere, and at 64 KiB."""
    borders = sorted(
        {0, len(data), *(c for c in cuts if c < len(data)), *range(0, len(data), 65_536)}
    )
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def _check(lines: list[LogLine], data: bytes, limit: int) -> None:
    at = 0
    for line in lines:
        assert line.start_offset == at, "no gap, no overlap"
        assert line.data is None or 0 < len(line.data) <= CHUNK_BYTES
        if line.data is not None:
            assert line.data == data[at : at + len(line.data)]
        at += len(line.data) if line.data is not None else line.dropped or 0
    assert at == len(data)
    gaps = [line for line in lines if line.dropped]
    assert len(gaps) <= 1
    if not gaps:
        assert len(data) <= limit + TAIL_BYTES
    else:
        head, tail = (
            gaps[0].start_offset or 0,
            len(data) - (gaps[0].start_offset or 0) - (gaps[0].dropped or 0),
        )
        assert len(data) > limit + TAIL_BYTES
        assert limit - 3 <= head <= limit
        assert TAIL_BYTES - 3 <= tail <= TAIL_BYTES
    _check_characters([line for line in lines if line.data is not None], data)


def _check_characters(lines: list[LogLine], data: bytes) -> None:
    """If the whole is text, every chunk is."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    for line in lines:
        (line.data or b"").decode()


def test_a_tail_that_comes_in_a_million_crumbs_is_kept_in_bounded_memory() -> None:
    sink = RecordingSink()
    capture = Capture(sink.page, 0)
    for n in range(100_000):
        capture.add(Output("stdout", b"%02d" % (n % 100)))
    assert len(capture._streams["stdout"]._tail) <= 2 * TAIL_BYTES
    capture.finish()
    (gap, *tail) = sink.lines()
    assert gap.dropped == 200_000 - TAIL_BYTES
    assert (
        b"".join(line.data or b"" for line in tail)
        == (b"%02d" * 100 % tuple(range(100)) * 1000)[-TAIL_BYTES:]
    )


def test_nothing_is_said_any_more_by_a_stale_record() -> None:
    sink = RecordingSink()
    sink.page.write_output("stdout", 0, b"before")
    sink.record.discard()
    sink.page.write_output("stdout", 6, b"after")
    assert sink.lines() == []
    assert sink.record.unwritten_bytes == 0


async def test_the_limit_of_an_action_is_kept_in_the_log_and_the_sizes_are_what_was_written(
    database: Database,
) -> None:
    async with harness(database) as on:
        said = b"0123456789" * 30_000
        on.machine("web-1").reply([Output("stdout", said), Output("stderr", b"few"), RemoteExit(0)])
        async with on.worker():
            execution = await on.run([CommandAction(command="talk", output_limit=1_000)])
        assert await on.output(execution) == said[:1_000] + said[-TAIL_BYTES:]
        assert [e.dropped for e in await on.log(execution) if e.dropped] == [
            300_000 - 1_000 - TAIL_BYTES
        ]
        (result,) = await on.results(execution)
        assert (result["stdout_bytes"], result["stdout_stored"], result["stderr_bytes"]) == (
            300_000,
            300_000,
            3,
        )


async def test_a_flood_is_held_back_while_the_ledger_is_slow_and_neighbours_get_through(
    database: Database,
) -> None:
    async with harness(database) as on:
        size, most = 8 << 20, 0
        on.machine("web-1").reply([Output("stdout", b"x" * size), RemoteExit(0)])
        on.machine("web-2").reply([Output("stdout", b"me, too\n"), RemoteExit(0)])
        failpoints.arm("settle:sleep:0.05")
        async with on.worker() as worker:
            execution = await on.launch("flood", 2)
            while (await on.executions.get(execution.id)).finished_at is None:
                most = max(
                    most, worker.session._batch_writer.unwritten_bytes if worker.session else 0
                )
                await asyncio.sleep(0.005)
                rows = await on.rows(execution)
                if rows[1]["status"] == "succeeded" and rows[0]["status"] == "running":
                    failpoints.arm("")
        first, second = await on.rows(execution)
        assert second["finished_at"] < first["finished_at"]
        assert most <= RUN_UNWRITTEN_BYTES + 2 * CHUNK_BYTES + 20_000
        stored = await database.fetch(
            "select sum(octet_length(data)) as n from execution_log where event = 'output'"
        )
        assert stored[0]["n"] == size + 8


async def test_all_floods_together_stay_within_the_workers_limit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "WORKER_UNWRITTEN_BYTES", 1 << 20)
    async with harness(database) as on:
        most = 0
        for n in range(1, 11):
            on.machine(f"web-{n}").reply([Output("stdout", b"x" * (1 << 19)), RemoteExit(0)])
        failpoints.arm("settle:sleep:0.02")
        async with on.worker() as worker:
            execution = await on.launch("flood", 10)
            while (await on.executions.get(execution.id)).finished_at is None:
                most = max(
                    most, worker.session._batch_writer.unwritten_bytes if worker.session else 0
                )
                await asyncio.sleep(0.002)
        assert most <= (1 << 20) + 10 * 3 * CHUNK_BYTES
        assert {r["stdout_bytes"] for r in await on.results(execution)} == {1 << 19}


async def test_a_run_that_waits_for_room_can_be_cancelled(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([Output("stdout", b"x" * (4 << 20)), Gate(asyncio.Event())])
        failpoints.arm("settle:sleep:0.2")
        async with on.worker() as worker:
            execution = await on.launch()
            await until(
                lambda: (
                    worker.session is not None
                    and worker.session._batch_writer.unwritten_bytes > RUN_UNWRITTEN_BYTES // 2
                )
            )
            await on.cancel(execution)
            worker.handle_order(b'{"cancel": %d}' % execution.id)
            await until(lambda: web.kills != [])
            failpoints.arm("")
            await on.ended(execution)
        assert (await on.row(execution))["status"] == "cancelled"
        (result,) = await on.results(execution)
        assert result["stdout_bytes"] == result["stdout_stored"]
        assert await on.output(execution) == b"x" * result["stdout_bytes"]


async def test_a_record_is_the_run_that_it_was_opened_for(database: Database) -> None:
    """A run that returns to the same worker has a new journal:

    it keeps what the old one dropped.
    """
    recorder = BatchWriter(
        Ledger(database),
        Metrics(),
        SystemClock(),
        owner=uuid4(),
        worker="w",
        on_flushed=lambda *_: None,
    )
    old, new = recorder.open_journal(RUN), recorder.open_journal(RUN)
    old.begin("step-1", 1, None).write_output("stdout", 0, b"old")
    recorder.discard(old)
    new.begin("step-1", 1, None).write_output("stdout", 0, b"newer")
    recorder.discard(old)
    assert list(recorder._dirty_journals.values()) == [new]
    assert recorder.unwritten_bytes == new.unwritten_bytes > 0


def read(
    wanted: Literal["none", "json_lines", "last_line"], *pieces: bytes
) -> dict[str, Any] | None:
    outputs = Outputs(wanted)
    for piece in pieces:
        outputs.add(piece)
    return outputs.finish()


def test_nothing_is_read_where_nothing_was_asked_for() -> None:
    assert read("none", b'{"a": 1}\n') is None


def test_lines_that_are_objects_are_merged_in_order() -> None:
    said = b'starting\n{"a": 1, "b": [1, {"c": null}]}\n[1]\n{"a": 2}\n{broken\n  {"d": "\xc3\xa9"}\r\n{"last": true}'
    assert read("json_lines", said) == {"a": 2, "b": [1, {"c": None}], "d": "é", "last": True}


@pytest.mark.parametrize(
    ("said", "last"),
    [
        (b"", ""),
        (b"one\ntwo\n", "two"),
        (b"one\ntwo", "two"),
        (b"one\r\n\n  \n", "one"),
        (b"\xff\n", "\ufffd"),
        (b"a\0b\n", "a\ufffdb"),
    ],
)
def test_the_last_line_that_is_not_empty(said: bytes, last: str) -> None:
    assert read("last_line", said) == {"last": last}


@given(st.binary(max_size=200), st.integers(1, 7))
def test_pieces_make_no_difference(said: bytes, size: int) -> None:
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    for wanted in ("json_lines", "last_line"):
        assert read(wanted, *pieces) == read(wanted, said)


def test_what_a_database_does_not_take_is_left_out_of_the_values() -> None:
    said = (
        b'{"a": "x\\u0000y", "b": "\\ud800", "c": 1e999, "d": NaN}\n{"e": 1e999}\n'
        + b"[" * 50
        + b"\n"
    )
    assert read("json_lines", said) == {"e": None}
    assert read("json_lines", b'{"a": "x\\u0000y", "b": "\\ud800"}\n') == {
        "a": "x\ufffdy",
        "b": "?",
    }
    assert read("json_lines", b'{"deep": ' + b"[" * 500 + b"]" * 500 + b"}\n") is not None
    assert read("json_lines", b'{"deep": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n") is not None


def test_a_line_that_is_too_long_and_values_that_are_too_many_are_left_out() -> None:
    long = b'{"a": "' + b"x" * OUTPUTS_BYTES_MAX + b'"}\n'
    assert read("json_lines", long, b'{"b": 1}\n') == {"b": 1}
    many = b"".join(b'{"n%d": "%s"}\n' % (n, b"x" * 1_000) for n in range(200))
    kept = read("json_lines", many)
    assert kept is not None
    assert "n0" in kept
    assert 50 < len(kept) < 66
    assert len(json.dumps(kept)) <= OUTPUTS_BYTES_MAX * 1.1
