"""A shell runs the lines before a place that cannot be read: they are judged although it cannot."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from opsjobs.model.safety_verdict import SafetyVerdict, worst
from opsjobs.safety.budget import TEXT_BYTES_MAX
from opsjobs.safety.check import check_text

UNREAD = {
    "too many commands": "ls -l /tmp\n" * 5_000,
    "too many variables": "x=$x; " * 5_000,
    "too many functions": "\n".join(f"f{n}() {{ ls; }}" for n in range(3_000)),
    "too many cases": "case x in\n" + "a) ls;;\n" * 3_000,
    "too large": "# " + "x" * TEXT_BYTES_MAX,
    "too many brackets": "(\n" * 400,
    "too many braces": "{" * 301,
    "too many stages": "ls " + "| ls " * 600,
    "a function without an end": "g() {",
    "another language": 'def f(x):\n    print("it\'s")\n',
}
# Shells run them if they are valid, so they run what is before them in the same line.
UNREAD_LINES = {
    "too many variables": "x=$x; " * 5_000,
    "too large": ": " + "x" * TEXT_BYTES_MAX,
    "too many brackets": "( " * 320 + ": " + ")" * 320,
    "too many stages": ":" + " | :" * 510,
}
STOPPED = "systemctl stop sshd\ncp a /etc/b\ncat <<'X'\n{}X\nsystemctl start sshd\n"
LINES = {
    "plain": "rm -rf {}\n",
    "after others": "set -e\ncd /tmp\nD={}\nrm -rf $D\n",
    "within": "if true; then\n  rm -rf {}\nfi\n",
    "a function": "f() {{\n  rm -rf $1\n}}\nf {}\n",
    "a heredoc": "sh <<X\nrm -rf {}\nX\n",
}


@pytest.mark.parametrize("unread", UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_dangerous_lines_before_a_part_that_cannot_be_read_are_blocked(
    lines: str, unread: str
) -> None:
    found = check_text("sh", lines.format("/") + unread)
    assert (found[0].rule, found[0].severity) == ("delete-everything", SafetyVerdict.BLOCK)
    assert SafetyVerdict.NEEDS_APPROVAL in {finding.severity for finding in found}


@pytest.mark.parametrize("unread", UNREAD_LINES.values(), ids=UNREAD_LINES)
@pytest.mark.parametrize("sign", ["; ", " && ", " & ", " | "])
def test_dangerous_commands_before_it_in_the_same_line_are_blocked(sign: str, unread: str) -> None:
    found = check_text("sh", f"echo '('; rm -rf /{sign}{unread}")
    assert (found[0].rule, found[0].severity) == ("delete-everything", SafetyVerdict.BLOCK)
    assert SafetyVerdict.NEEDS_APPROVAL in {finding.severity for finding in found}


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_shells_run_such_commands_unless_the_line_is_no_shell(shell: str, tmp_path: Path) -> None:
    for name, unread in (UNREAD_LINES | {"no shell": "(((", "no end": "f() {"}).items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        script = tmp_path / "script.sh"
        script.write_text(f"rmdir {folder}; {unread}\n")
        ended = subprocess.run([shell, script], capture_output=True, timeout=60, check=False)
        assert (folder.exists(), ended.returncode != 0) == ((name not in UNREAD_LINES,) * 2), name


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_shells_run_such_lines(shell: str, tmp_path: Path) -> None:
    for number, (lines, unread) in enumerate(
        (lines, UNREAD[name])
        for lines in LINES.values()
        for name in ("too many brackets", "a function without an end", "another language")
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        script = tmp_path / f"{number}.sh"
        script.write_text(lines.format(folder) + unread)
        ended = subprocess.run([shell, script], capture_output=True, timeout=60, check=False)
        assert ended.returncode != 0, "it cannot read the rest"
        assert not folder.exists()


@pytest.mark.parametrize(
    "text",
    [
        "echo 'rm -rf /\n" + "(\n" * 400,
        "cat <<X\nrm -rf /\n" + "x\n" * 40_000,
        "(\n" * 400 + "rm -rf /\n",
        'clean() {\n  rm -rf "$D"/*\n}\nD=/srv/cache\n' + "(\n" * 400 + "clean\n",
        "echo 'rm -rf /; " + "x; " * 30_000 + "'",
        "cat <<X\nrm -rf /; x; x\n" + "x; " * 30_000 + "\nX\n",
        "X=$'it\\'s\nrm -rf /\n" + "some text; more\n" * 4_600 + "'\n",
        "X=$'it\\'s; rm -rf /; " + "some text; more; " * 4_600 + "'\n",
        "rm -rf /\\\ntmp/x " + "(" * 301,
        "rm -rf /\\\ntmp/x " + "x; " * 30_000,
        "rm -rf /\\;x " + "(" * 301,
        "trap 'rm -rf \"$WORK\"/*' EXIT\n" + "(\n" * 301 + "WORK=$(mktemp -d)\n",
        STOPPED.format("\x1b[31m*\n" * 301),
    ],
    ids=[
        *("a text", "a heredoc", "after it", "a function before its variables"),
        *("a text in a line", "a heredoc in a line", "a word with a quote"),
        *("a word with a quote in a line", "a line that goes on", "a large line that goes on"),
        *("a word that goes on", "a trap before its variables", "a service that is started again"),
    ],
)
def test_what_a_shell_does_not_run_before_it_is_not_blocked(text: str) -> None:
    severities = [finding.severity for finding in check_text("sh", text)]
    assert worst(severities) is SafetyVerdict.NEEDS_APPROVAL


def test_an_earlier_start_does_not_make_up_for_a_stop() -> None:
    lines = "systemctl start sshd\nsystemctl stop sshd\n"
    found = check_text("sh", lines + "ls -l /tmp\n" * 1_500)
    assert "too-large" in {finding.rule for finding in found}, "only a part was read"
    assert (found[0].rule, found[0].severity) == ("stop-lifeline", SafetyVerdict.BLOCK)


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n" * 3_000 + "rm -rf /\n" + "# a comment\n" * 3_000,
        "rm -rf /\n" + "while :; do x=$((1+\n" * 200,
        "rm -rf /\n" + "a)b\n" * 16_000,
        "#!/bin/sh\n# a comment\n\nrm -rf /\n" + "a)b\n" * 16_000,
        "trap 'echo ended' EXIT\nrm -rf /\n" + "(\n" * 301,
    ],
    ids=["behind comments", "many loops", "many cases", "a comment first", "a trap first"],
)
def test_dangerous_lines_are_found_in_large_texts(text: str) -> None:
    found = check_text("sh", text)
    assert (found[0].rule, found[0].severity) == ("delete-everything", SafetyVerdict.BLOCK)


def test_a_fault_that_costs_nearly_all_reads_is_an_answer() -> None:
    found = check_text("sh", 'y="${x:-a\nrm -rf /' + "(\n" * 301)
    assert worst(finding.severity for finding in found) is SafetyVerdict.NEEDS_APPROVAL
