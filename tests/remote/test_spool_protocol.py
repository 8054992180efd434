"""The request lines of durable runs, and the records that come back, however packets are split."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsjobs.model.program import RunKey, SpoolIdentity, StartOrder
from opsjobs.remote.session import Output
from opsjobs.remote.spool import script
from opsjobs.remote.spool.channel import Record, RecordParser
from opsjobs.remote.spool.script import SpoolRequest

LINUX = SpoolIdentity("0123456789abcdef", "cd341a3c-6f0a-4953-8784-6f232fa69e29")
OTHER = SpoolIdentity("0123456789abcdef@1000", "1700000000123")
KEY = RunKey(uuid4(), "step-1", 1)
ORDER = StartOrder(KEY, "echo 'it''s' \"$HOME\" \\ ! `true`", 60, environment={"A": "it's\n!"})

REQUESTS: dict[str, SpoolRequest] = {
    "hello": script.hello(),
    "start": script.start(ORDER, LINUX),
    "start elsewhere": script.start(ORDER, OTHER),
    "start awaited": script.start(ORDER, LINUX, awaited=True),
    "start of much": script.start(StartOrder(KEY, "x" * 100_000, 60), LINUX),
    "attach": script.attach(ORDER, OTHER, (5, 7)),
    "follow": script.follow(ORDER, LINUX, (0, 0)),
    "look": script.look(KEY),
    "cancel": script.cancel(KEY, 5.0, None),
    "clean": script.clean([KEY, KEY]),
}


@pytest.mark.parametrize(
    "request_",
    [asked for asked in REQUESTS.values() if not asked.awaited],
    ids=[name for name, asked in REQUESTS.items() if not asked.awaited],
)
def test_a_line_is_for_every_login_shell(request_: SpoolRequest) -> None:
    line = request_.line()
    assert line.startswith("exec sh -c '" if request_.hold else "sh -c '")
    assert "\n" not in line
    assert re.search(r"!(?! )", line) is None, "csh would look into its history"
    assert "\\" not in line, "fish and csh would not agree"
    # Only single quotes around it, and double quotes around those that a script contains.
    assert re.fullmatch(r"(?:[^']|'[^']*'|\"'\")*", line)
    assert len(line) < 4096


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("plain", [False, True])
def test_every_shell_can_read_it(request_: SpoolRequest, plain: bool, shell: str) -> None:
    line = request_.line(plain=plain or request_.awaited)
    program = ["busybox", "sh"] if shell == "busybox" else [shutil.which(shell) or shell]
    for text in (
        line,
        request_.script,
        *(word.strip("'").replace("'\"'\"'", "'") for word in request_.arguments),
    ):
        said = subprocess.run(
            [*program, "-n", "-c", text], capture_output=True, text=True, check=False
        )
        assert (said.returncode, said.stderr) == (0, "")


def test_the_command_and_its_environment_are_nowhere_but_in_the_standard_input() -> None:
    order = StartOrder(KEY, "echo canary-command", 60, environment={"A": "canary-value"})
    for identity, awaited in ((LINUX, False), (OTHER, False), (LINUX, True)):
        request = script.start(order, identity, awaited=awaited)
        assert request.awaited == awaited
        assert "canary" not in request.line(plain=True) + ("" if awaited else request.line())
        assert request.stdin.count(b"canary") == 2


@pytest.mark.parametrize("action", ["", "UP", "a b", "a/../b", "-rf", "a;b", "a" * 65, "ü"])
def test_only_keys_of_runs_name_files(action: str) -> None:
    key = RunKey(uuid4(), action, 1)
    for ask in (
        script.look,
        lambda key: script.clean([key]),
        lambda key: script.cancel(key, 1.0, None),
    ):
        with pytest.raises(ValueError, match="key"):
            ask(key)
    with pytest.raises(ValueError, match="key"):
        script.start(StartOrder(key, "true", 60), LINUX)


@pytest.mark.parametrize(
    "environment", [{"A=B": "x"}, {"A;reboot": "x"}, {"1": "x"}, {"": "x"}, {"A": "x\0"}]
)
def test_an_environment_that_no_shell_takes_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="environment"):
        script.start(StartOrder(KEY, "true", 60, environment=environment), LINUX)


@pytest.mark.parametrize("store", ["", "a b", "$(reboot)", "0123456789abcdef@x", "../../etc"])
def test_a_store_with_an_odd_name_is_nobodys(store: str) -> None:
    assert " - - " in script.start(ORDER, SpoolIdentity(store, "a boot; reboot")).line()


# --- records

MARK = b"\x1e0123456789abcdef "


def fed(data: bytes, cuts: list[int]) -> list[Output | Record]:
    records = RecordParser("\x1e0123456789abcdef")
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [
        item for start, end in itertools.pairwise(edges) for item in records.feed(data[start:end])
    ]


def said(items: list[Output | Record], stream: str) -> bytes:
    return b"".join(
        item.data for item in items if isinstance(item, Output) and item.stream == stream
    )


pieces = st.binary(max_size=40) | st.sampled_from(
    [MARK[:9], b"\x1e", b"\n", MARK[1:], b"1 5\n", MARK[:-1] + b"\x1e"]
)


@given(out=pieces, err=pieces, more=pieces, cuts=st.lists(st.integers(0, 500), max_size=8))
def test_output_comes_back_exactly_between_records(
    out: bytes, err: bytes, more: bytes, cuts: list[int]
) -> None:
    data = (
        b"banner\n"
        + MARK
        + b"1\n"
        + out
        + MARK
        + b"2\n"
        + err
        + MARK
        + b"1 9\n"
        + more
        + MARK
        + b"E 0 -\n"
    )
    items = fed(data, cuts)
    assert said(items, "stdout") == out + more
    assert said(items, "stderr") == err
    assert [item for item in items if not isinstance(item, Output)] == [
        ("1",),
        ("2",),
        ("1", "9"),
        ("E", "0", "-"),
    ]


@given(cuts=st.lists(st.integers(0, 500_000), max_size=8))
def test_pieces_are_never_larger_than_64_kib(cuts: list[int]) -> None:
    data = bytes(range(256)) * 1000
    items = fed(MARK + b"1\n" + data + MARK + b"E\n", cuts)
    assert all(0 < len(item.data) <= 65_536 for item in items if isinstance(item, Output))
    assert said(items, "stdout") == data


def test_only_what_may_be_the_beginning_of_a_record_is_held_back() -> None:
    records = RecordParser("\x1e0123456789abcdef")
    assert list(records.feed(MARK + b"1\nprompt> ")) == [("1",), Output("stdout", b"prompt> ")]
    assert list(records.feed(b"a\x1e0123")) == [Output("stdout", b"a")]
    assert list(records.feed(b"x")) == [Output("stdout", b"\x1e0123x")]


def test_what_is_said_before_the_first_record_is_kept_for_people() -> None:
    records = RecordParser("\x1e0123456789abcdef")
    assert list(records.feed(b"Welcome!\n" * 10_000 + MARK + b"B\n")) == [("B",)]
    assert records.noise.startswith(b"Welcome!\n")
    assert len(records.noise) <= 4096
