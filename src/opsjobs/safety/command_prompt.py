"""Read commands of the Windows command prompt (cmd) without a grammar, as it has none.

Handles lines, separators, carets and %variables%.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from opsjobs.safety.budget import check_size, replaced
from opsjobs.safety.command_dispatch import run
from opsjobs.safety.powershell.names import ENVIRONMENT
from opsjobs.safety.question import Lookup
from opsjobs.safety.symbolic_words import LATER, MAYBE_EMPTY, SOMETHING, is_known
from opsjobs.safety.trace import Io, SourcePosition, Trace

_PERCENT = re.compile(r"%([A-Za-z_][\w()]*)(:[^%]*)?%|!([A-Za-z_]\w*)!|%%?~?\w*([A-Za-z0-9*])")
_SET = re.compile(
    r"""(?im)^[ \t]*+@?set[ \t]++(?!/)"?(\w+)=([^"\r\n&|]*)"?"""
    r"""|[&(][ \t]*+set[ \t]++(?!/)"?(\w+)=([^"\r\n&|]*)"?"""
)
_FOR = re.compile(r"(?i)\bfor\s+(?:(/\w)\s+)?%%?(\w)\s+in\s*\(([^()]*)\)")
# Its parentheses are around a condition, not around a block: `wmic process where (name="x")`.
_QUERY = re.compile(r"(?i)\s*@?wmic(?:\.exe)?\s")
_TOKEN = re.compile(r'"((?:[^"])*)"|([^\s"]+)')
_SKIPS = frozenset(
    {"call", "@call", "start", "else", "do", "not", "exist", "defined", "cmdextversion"}
)
_WORDS_MAX = 2_000
_VARIABLES_MAX = 32
_WAYS_MAX = 64


def read(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the effects of this text in the trace."""
    variables = dict(_loops(text))
    if (arguments := place.given.arguments) is not None:
        variables |= {
            f"%{n}": [word] for n, word in enumerate((*arguments, *[""] * 9)[:9], start=1)
        }
        variables["%*"] = [" ".join(f'"{word}"' for word in arguments)]
    elif place.depth <= 1:
        variables |= {f"%{n}": [LATER] for n in (*range(1, 10), "*")}
    for found in _SET.finditer(text):
        variables.setdefault((found[1] or found[3]).lower(), []).append(
            (found[2] if found[1] else found[4]).strip()
        )
    feeder: tuple[str, ...] = ()
    for command, piped in _commands(re.sub(r"\^\r?\n", "", text)):
        trace.budget.spend(1 + len(command) // 32)
        here = place.within(command)
        ways, more = _ways(command, variables, place.given.variables)
        if more:
            trace.event("too_much", here)
        for way in ways:
            trace.budget.spend(len(way) // 32)
            feeder = _run(trace, way, here, feeder if piped else ())


def read_line(trace: Trace, text: str, place: SourcePosition) -> None:
    """Read the words after `cmd`, one a line: the command after /c or /k."""
    words = text.split("\n")
    at = next((n for n, word in enumerate(words) if re.match(r"[/-][ckCKrR]", word)), None)
    if at is not None:
        joined = " ".join([words[at][2:], *words[at + 1 :]]).strip()
        read(trace, joined[1:-1] if joined[:1] == '"' == joined[-1:] else joined, place)


def _loops(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield loop variables and their values: `%%d` of `for %%d in (a b) do …`."""
    for found in _FOR.finditer(text):
        if found[1] is None or found[1].lower() == "/d":
            yield (
                f"%{found[2]}",
                [item[1] or item[2] for item in _TOKEN.finditer(found[3].replace(",", " "))]
                or [""],
            )


def _commands(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each command of the text, and whether it reads the output of the previous one."""
    for line in text.splitlines():
        yield from _commands_of_line(line)


def _commands_of_line(line: str, *, queries: bool = True) -> Iterator[tuple[str, bool]]:
    """Yield the commands of a line; `queries`: parentheses may be around a condition of wmic.

    A block ends at the first `)`, so the words after a condition are read a second time, on
    their own.
    """
    piece, quoted, piped = "", False, False
    opened = after = n = 0  # parentheses of the condition, and the place after its first `)`
    while n < len(line):
        letter = line[n]
        if letter == "^" and not quoted:
            n += 1
            piece += line[n : n + 1]
        elif letter == '"':
            quoted = not quoted
            piece += letter
        elif letter == "(" and not quoted and queries and _QUERY.match(piece):
            opened += 1
            piece += " "
        elif letter == ")" and not quoted and opened:
            opened -= 1
            after = after or n + 1
            piece += " "
        elif letter in "&|()" and not quoted and not (letter == "&" and piece.endswith(">")):
            if piece.strip():
                yield piece.strip(), piped
            yield from _commands_of_line(line[after:n], queries=False) if after else ()
            piped = letter == "|" and line[n + 1 : n + 2] != "|" and not (n and line[n - 1] == "|")
            piece, opened, after = "", 0, 0
        else:
            piece += letter
        n += 1
    if piece.strip():
        yield piece.strip(), piped
    yield from _commands_of_line(line[after:], queries=False) if after else ()


def _ways(command: str, variables: dict[str, list[str]], outer: Lookup) -> tuple[list[str], bool]:
    """Return the command with its variables replaced, once for each possible value.

    True if there are more of these than the limits allow.
    """
    ways = [command]
    written = {found[0]: found for found in _PERCENT.finditer(command)}
    more = len(written) > _VARIABLES_MAX
    for text, found in list(written.items())[:_VARIABLES_MAX]:
        values = _values(found, variables, outer)
        more = more or len(ways) * len(values) > _WAYS_MAX
        ways = [replaced(way, text, value) for way in ways for value in values[:_WAYS_MAX]]
        ways = ways[:_WAYS_MAX]
    # Variables that are never set, and those beyond the limits, may be empty.
    return [_PERCENT.sub(MAYBE_EMPTY, way) for way in ways], more


def _values(match: re.Match[str], variables: dict[str, list[str]], outer: Lookup) -> list[str]:
    name = (match[1] or match[3] or "").lower()
    if not name:
        values = variables.get(f"%{match[4]}", [SOMETHING])
        return [re.sub(r"%[^%]+%", MAYBE_EMPTY, value) for value in values]
    values = [_PERCENT.sub(MAYBE_EMPTY, v) for v in variables.get(name, ())]
    values = values or list(outer(match[1] or match[3])) or [ENVIRONMENT.get(name, MAYBE_EMPTY)]
    return values if match[2] is None else [_piece(value, match[2]) for value in values]


def _piece(value: str, how: str) -> str:
    numbers = re.fullmatch(r":~(-?[0-9]{1,9})(?:,(-?[0-9]{1,9}))?", how)
    if numbers is None or not is_known(value):
        old, equals, new = how[1:].partition("=")
        return _changed(value, old, new) if equals and old and is_known(value) else MAYBE_EMPTY
    start = int(numbers[1]) + (len(value) if int(numbers[1]) < 0 else 0)
    if numbers[2] is None:
        return value[start:]
    return (
        value[start : start + int(numbers[2])]
        if int(numbers[2]) >= 0
        else value[start : int(numbers[2])]
    )


def _changed(value: str, old: str, new: str) -> str:
    pieces = re.split(re.escape(old), value, flags=re.IGNORECASE)
    check_size(len(value) + len(pieces) * len(new))
    return new.join(pieces)


def _run(
    trace: Trace, command: str, place: SourcePosition, sources: tuple[str, ...]
) -> tuple[str, ...]:
    words, writes = _split_words(command)
    if len(words) > _WORDS_MAX:
        trace.event("too_much", place)
    words = _stripped(words)
    if not words or words[0].startswith((":", "::")) or words[0].lower() == "rem":
        return ()
    name = (
        words[0]
        .lstrip("@")
        .replace("\\", "/")
        .rpartition("/")[2]
        .lower()
        .removesuffix(".exe")
        .removesuffix(".com")
    )
    io = Io(sources, writes=tuple(("write", path) for path in writes))
    if not name or not is_known(name):
        trace.event("dynamic_command", place)
        trace.call(("?", *words[1:]), place, dialect="cmd", io=io)
        return ()
    trace.call((name, *words[1:]), place, dialect="cmd", io=io)
    run(trace, [name, *words[1:]], place, io)
    return (name,)


def _split_words(command: str) -> tuple[list[str], list[str]]:
    words: list[str] = []
    writes: list[str] = []
    for found in _TOKEN.finditer(re.sub(r"([^\d&>])(\d?>>?)|^(>>?)", r"\1 \2\3 ", command)):
        word = found[1] if found[1] is not None else found[2]
        if words and re.fullmatch(r"\d?>>?", words[-1]):
            words.pop()
            writes.append(word)
        else:
            words.append(word)
    return words, writes


def _stripped(words: Sequence[str]) -> list[str]:
    """Return the words without a prefix such as `if …`, `for … do`, `start ""`, `call`."""
    rest = list(words[:_WORDS_MAX])
    while rest:
        first = rest[0].lower().lstrip("@")
        if first == "for":
            rest = rest[
                next((n for n, w in enumerate(rest) if w.lower() == "do"), len(rest) - 1) + 1 :
            ]
        elif first == "if":
            rest = _after_condition(rest[1:])
        elif first == "start":
            rest = [
                w for n, w in enumerate(rest[1:]) if not (n < 3 and (w == "" or w.startswith("/")))
            ]
        elif not first or first in _SKIPS:
            rest = rest[1:]
        else:
            rest[0] = rest[0].lstrip("@")
            return rest
    return rest


def _after_condition(rest: list[str]) -> list[str]:
    while rest and rest[0].lower() in ("not", "/i"):
        rest = rest[1:]
    if not rest:
        return rest
    if rest[0].lower() in ("exist", "defined", "errorlevel"):
        return rest[2:]
    if len(rest) > 1 and rest[1].lower() in ("==", "equ", "neq", "lss", "leq", "gtr", "geq"):
        return rest[3:]
    return rest[1:]
