"""The event stream's parser, with the stream cut in every possible way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsjobs.cli.event_stream import EVENT_BYTES_MAX, Event, Parser

STREAM = (
    b"\xef\xbb\xbf: hello\n\n"
    b'id: 1\nevent: output\ndata: {"a":1}\n\n'
    b"id: 2\r\nevent: status\r\ndata: one\r\ndata: two\r\n\r\n"
    b"data:gr\xc3\xbc\xc3\x9fe\r\r"
    b": keep-alive\n\n"
    b"id: 4\nevent: end\nretry: 5\nunknown: x\ndata\n\n"
)
EVENTS = [
    Event("1", "output", '{"a":1}'),
    Event("2", "status", "one\ntwo"),
    Event("2", "message", "grüße"),
    Event("4", "end", ""),
]


def test_a_whole_event_stream_is_parsed() -> None:
    assert Parser().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_event_parsing_does_not_depend_on_portions(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(STREAM)})
    parser = Parser()
    found = [event for a, b in pairwise(places) for event in parser.feed(STREAM[a:b])]
    assert found == EVENTS


def test_event_parsing_works_byte_by_byte() -> None:
    parser = Parser()
    assert [event for byte in STREAM for event in parser.feed(bytes([byte]))] == EVENTS


def test_an_event_is_dispatched_at_its_blank_line() -> None:
    assert Parser().feed(b"data: x\r\n\r") == [Event("", "message", "x")]


def test_an_incomplete_event_is_not_dispatched() -> None:
    assert Parser().feed(b"id: 9\ndata: half") == []


def test_an_event_id_with_nul_is_ignored() -> None:
    assert Parser().feed(b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n")[1].id == "1"


def test_an_oversized_event_is_refused() -> None:
    parser = Parser()
    parser.feed(b"data: " + b"x" * (EVENT_BYTES_MAX - 10))
    with pytest.raises(ValueError, match="larger than"):
        parser.feed(b"x" * 100)
