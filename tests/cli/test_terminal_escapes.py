"""Output of machines cannot control the terminal: only colours and line ends have an effect.

Other control characters are shown.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from cli.pseudo_terminal import run_on_terminal
from opsjobs.cli.terminal import Terminal
from opsjobs.cli.terminal_escapes import EscapedOutput, escape_json, escape_output

ATTACKS = {
    b"\x1b]52;c;ZXZpbA==\x07": b"^[]52;c;ZXZpbA==^G",  # the clipboard
    b"\x1b]0;title\x1b\\": b"^[]0;title^[\\",
    b"\x1b[2J\x1b[H": b"^[[2J^[[H",
    b"\x1b[c": b"^[[c",
    b"\rlab-3 | all backups deleted\x1b[K": b"^Mlab-3 | all backups deleted^[[K",
    b"\x08\x08\x7f\x0b\x0c": b"^H^H^?^K^L",
    "\u009b2J".encode(): b"<9b>2J",
    b"\x9b2J": b"\\x9b2J",
    "a\u202eb\u2066c\u2028d\u200fe".encode(): b"a<U+202E>b<U+2066>c<U+2028>d<U+200F>e",
    b"\x1b[8mhidden": b"^[[8mhidden",
    b"\x1b[1;8mhidden": b"^[[1;8mhidden",
}
FINE = [
    (b"plain\ttext\n", b"plain\ttext\n"),
    (b"dos\r\nlines\r\n", b"dos\nlines\n"),
    ("héllo 日本 👩‍🚀\n".encode(), "héllo 日本 👩‍🚀\n".encode()),
    (b"\x1b[1;31mred\x1b[0m", b"\x1b[1;31mred\x1b[0m\x1b[0m"),
    (b"\x1b[38;5;8mgrey", b"\x1b[38;5;8mgrey\x1b[0m"),
    (b"\x1b[48;2;8;8;8mdark", b"\x1b[48;2;8;8;8mdark\x1b[0m"),
    (b"\x1b[32mgreen\nnext", b"\x1b[32mgreen\x1b[0m\nnext"),
]


@pytest.mark.parametrize("sent", ATTACKS)
def test_control_characters_are_escaped(sent: bytes) -> None:
    assert escape_output(sent) == ATTACKS[sent]


@pytest.mark.parametrize(("sent", "seen"), FINE)
def test_text_line_ends_and_colours_pass(sent: bytes, seen: bytes) -> None:
    assert escape_output(sent) == seen


HOSTILE = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from(
            [*ATTACKS, *(sent for sent, _ in FINE), b"\x1b", b"\x1b[", b"\x1b[3", b"\r", b"\n"]
        ),
    ),
    max_size=12,
).map(b"".join)


@given(data=HOSTILE, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_escaping_does_not_depend_on_portions(data: bytes, cuts: list[int]) -> None:
    stream = EscapedOutput()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [stream.feed(data[start:end]) for start, end in itertools.pairwise(edges)]
    assert b"".join([*pieces, stream.feed(b"", final=True)]) == escape_output(data)


@given(data=HOSTILE)
def test_no_control_sequence_survives_escaping(data: bytes) -> None:
    left = re.sub(r"\x1b\[[0-9;:]*m", "", escape_output(data).decode())
    assert [
        c for c in left if unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\n\t"
    ] == []
    assert not set(left) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def test_json_output_has_no_control_characters() -> None:
    value = {"stdout": "a\u009b2Jb\u202ec\u0085\u2028\x1b[K\x7f", "näme": "é"}
    text = escape_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    assert "näme" in text


HOSTILE_WORDS = "The connection broke: \x1b]52;c;ZXZpbA==\x07 \u009b2J\rall well\x1b[K."


def test_a_refusal_with_remote_text_is_escaped() -> None:
    def refuse(_: ApiRequest) -> ApiResponse:
        return ApiResponse(
            424,
            {"code": "connection_lost", "detail": HOSTILE_WORDS, "status": 424},
            media_type="application/problem+json",
        )

    with serve_api(refuse) as api:
        code, seen = run_on_terminal("targets", "test", "web-1", url=api.url)
    assert code == 1
    assert "The connection broke: \\x1b]52;c;ZXZpbA==\\x07 \\x9b2J\\rall well\\x1b[K." in seen


def test_notices_of_the_live_view_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.notice(f"first\n{HOSTILE_WORDS}")
    assert capsys.readouterr().err == (
        "first\nThe connection broke: \\x1b]52;c;ZXZpbA==\\x07 \\x9b2J\\rall well\\x1b[K.\n"
    )
