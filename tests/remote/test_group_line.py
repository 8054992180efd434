"""The line that names a process group is cut out of the output, however packets are split."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from opsjobs.remote.ssh.process import GroupLine


def fed(line: GroupLine, data: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    out = bytearray()
    for start, end in itertools.pairwise(edges):
        piece = data[start:end]
        out += line.strip(piece) if line.searching else piece
    return bytes(out) + line.rest()


@given(
    before=st.binary(max_size=60),
    after=st.binary(max_size=60),
    cuts=st.lists(st.integers(0, 500), max_size=8),
)
def test_the_line_is_taken_out_exactly(before: bytes, after: bytes, cuts: list[int]) -> None:
    line = GroupLine()
    assert fed(line, before + line.mark + b" 4711\n" + after, cuts) == before + after
    assert line.pid == 4711


@given(
    cuts=st.lists(st.integers(0, 500), max_size=8),
    shell=st.sampled_from(["", "/bin/sh", "/opt/my shells/zsh"]),
)
def test_it_may_name_the_login_shell(cuts: list[int], shell: str) -> None:
    line = GroupLine()
    assert fed(line, line.mark + f" 4711 {shell}".rstrip().encode() + b"\nmore", cuts) == b"more"
    assert (line.pid, line.shell) == (4711, shell or None)


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 500), max_size=8))
def test_output_without_the_line_is_untouched(data: bytes, cuts: list[int]) -> None:
    line = GroupLine()
    assert fed(line, data, cuts) == data
    assert line.pid is None


@given(keep=st.integers(1, 23), cuts=st.lists(st.integers(0, 500), max_size=4))
def test_a_beginning_of_the_line_that_is_none_is_untouched(keep: int, cuts: list[int]) -> None:
    line = GroupLine()
    data = b"x" + line.mark[:keep] + b"!" + line.mark[: keep // 2]
    assert fed(line, data, cuts) == data


def test_output_that_cannot_be_the_line_is_not_held_back() -> None:
    line = GroupLine()
    assert line.strip(b"prompt> ") == b"prompt> "


def test_the_search_ends_after_64_kib() -> None:
    line = GroupLine()
    for _ in range(70):
        assert line.strip(b"x" * 1024) == b"x" * 1024
    assert not line.searching


def test_only_the_first_line_with_the_mark_is_ours() -> None:
    line = GroupLine()
    own = line.mark + b" 12\n"
    assert fed(line, own + own, []) == own


def test_the_complaint_of_fish_is_taken_out() -> None:
    line = GroupLine()
    complaint = (
        b"fish: Expected a variable name after this $.\necho "
        + line.mark
        + b" $$\n"
        + b" " * 20
        + b"^\nreal error\n"
    )
    assert line.strip_fish(complaint) == b"real error\n"
    assert not line.searching
