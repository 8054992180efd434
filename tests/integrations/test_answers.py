"""Responses of other services are read or refused, and never cause an error of ours."""

from __future__ import annotations

import pytest

from opsjobs.integrations.answers import parse_host, parse_json, parse_retry_after


def test_json_is_read_as_it_is_written() -> None:
    text = '{"a": [1, -2.5, "ä\\u00e4", "\\ud83d\\ude00", null, true], "b": 1e300}'
    assert parse_json(text.encode()) == {"a": [1, -2.5, "ää", "😀", None, True], "b": 1e300}


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"9" * 5_000, b"[" * 100_000),
        *(b'"\\ud800"', b'"\xed\xa0\x80"', '"\\ud800"'.encode("utf-16")),
    ],
    ids=lambda raw: repr(raw[:5]),
)
def test_what_no_answer_of_ours_could_hold_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(raw)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0.0), (" 120 ", 120.0), ("²", None), ("9" * 400, None), ("-1", None), (None, None)],
)
def test_a_pause_is_a_whole_number_of_seconds(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds


@pytest.mark.parametrize(
    ("header", "host"),
    [("https://web-1:8443/x", "web-1"), ("/x", None), ("http://[", None), (None, None)],
)
def test_a_redirect_names_its_host_if_it_has_one(header: str | None, host: str | None) -> None:
    assert parse_host(header) == host
