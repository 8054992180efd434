"""Values in command lines of cmd and PowerShell, checked by parsers of others.

PowerShell's grammar is that of tree-sitter. That of cmd.exe is written here from Microsoft's rules:
variables first, then carets, quotes and operators, then the split of a program's arguments.
"""

from __future__ import annotations

import itertools
import re

import pytest
import tree_sitter
import tree_sitter_powershell

from opsjobs.model.quoting import Unquotable, cmd, powershell

VARIABLES = {"PATH": "C:\\Windows", "A": "& calc", "COMSPEC": "cmd.exe"}
SEEDS = (
    "calc", "& calc", "&& calc", "| calc", "|| calc", "> C:\\x", "< C:\\x", "2>&1", "; calc",
    "%PATH%", "%A%", "%A:~0,1%", "%COMSPEC% /c calc", "!A!", "^& calc", "^^& calc", '" & calc & "',
    "' ; calc ; '", "$(calc)", "$env:PATH", "`calc`", "`; calc", "@(calc)", "{calc}", "(calc)",
    '"', '""', '\\"', "\\\\", "\\", "'", "''", "a b", "", " ", "\t".strip() or "~", "*", "?", "%", "^",
    "--%", "-EncodedCommand AAAA", "/c calc", "#", "<#", "#>", "\u2018; calc; \u2019", "\u201c", "ü",
)  # fmt: skip
PAYLOADS = tuple(
    dict.fromkeys(
        itertools.islice(
            itertools.chain(
                SEEDS,
                (f"{one}{two}" for one, two in itertools.product(SEEDS[:16], SEEDS[14:34])),
            ),
            220,
        )
    )
)


def expand(line: str) -> str:
    """Replace variables as the command line of cmd does: unknown ones stay as they are."""

    def value(found: re.Match[str]) -> str:
        return VARIABLES.get(found[1].partition(":")[0].upper(), found[0])

    return re.sub(r"%([^%]+)%", value, line)


def read_cmd(line: str) -> tuple[str, list[str]]:
    """Return the line that the program gets, and the operators that cmd found in it."""
    text, operators, quoted, at = "", [], False, 0
    line = expand(line)
    while at < len(line):
        char = line[at]
        if char == "^" and not quoted:
            at += 1
            text += line[at : at + 1]
        elif char in "&|<>()" and not quoted:
            operators.append(char)
        else:
            quoted ^= char == '"'
            text += char
        at += 1
    return text, operators


def split_arguments(line: str) -> list[str]:
    """Split a command line as programs do (CommandLineToArgvW)."""
    words: list[str] = []
    word, quoted, begun, at = "", False, False, 0
    while at < len(line):
        slashes = len(line[at:]) - len(line[at:].lstrip("\\"))
        if slashes and line[at + slashes : at + slashes + 1] == '"':
            word, begun = word + "\\" * (slashes // 2), True
            at += slashes
            if slashes % 2:
                word, at = word + '"', at + 1
            continue
        if line[at] == '"':
            quoted, begun = not quoted, True
        elif line[at] in " \t" and not quoted:
            words += [word] if begun else []
            word, begun = "", False
        else:
            word, begun = word + line[at], True
        at += 1
    return [*words, word] if begun else words


def test_there_are_200_payloads() -> None:
    assert len(PAYLOADS) >= 200


@pytest.mark.parametrize("payload", PAYLOADS)
def test_cmd_reads_a_value_as_one_argument(payload: str) -> None:
    text, operators = read_cmd(f"tool.exe {cmd(payload)} end")
    assert operators == []
    assert split_arguments(text) == ["tool.exe", payload, "end"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_powershell_reads_a_value_as_one_literal(payload: str) -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    source = f"Get-Thing {powershell(payload)}".encode()
    tree = parser.parse(source)
    assert not tree.root_node.has_error
    literals, others = [], []
    open_ = [tree.root_node]
    while open_:
        node = open_.pop()
        if node.type == "verbatim_string_characters":
            literals.append(source[node.start_byte : node.end_byte].decode())
        elif node.type in (
            "variable",
            "sub_expression",
            "expandable_string_literal",
            "pipeline_chain",
        ):
            others.append(node.type)
        open_ += node.children
    assert [re.sub("(['\u2018-\u201b])\\1", "\\1", one[1:-1]) for one in literals] == [payload]
    assert "variable" not in others
    assert others.count("pipeline_chain") <= 1


@pytest.mark.parametrize("value", ["a\nb", "a\r\nb", "a\0b", "\x1a"])
def test_what_cmd_cannot_carry_is_refused(value: str) -> None:
    with pytest.raises(Unquotable):
        cmd(value)
