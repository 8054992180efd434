"""The shell context of template values in a command.

A value is allowed only outside of quotes, comments, here-documents and everything else that is
parsed again."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from opsjobs.model.quoting import Shell

Find = Callable[[str, int], "re.Match[str] | None"]
"""A function that returns the match of a name at this position, or None."""


@dataclass(frozen=True, slots=True)
class NamePosition:
    """A name in a command, from `start` to `end`."""

    name: str
    start: int
    end: int
    fault: str | None
    """The reason for which no value is allowed here."""


def places(text: str, find: Find, shell: Shell) -> list[NamePosition]:
    """Return all names in a command, in order."""
    kinds: dict[Shell, type[_Scan]] = {"posix": _Posix, "cmd": _Cmd, "powershell": _PowerShell}
    return kinds[shell](text, find).all()


_QUOTES, _COMMENT, _HERE = "inside quotes", "in a comment", "in a here-document"
_WORDS = {
    "single": _QUOTES, "double": _QUOTES, "ansi": _QUOTES, "backtick": "inside backticks",
    "comment": _COMMENT, "block": _COMMENT, "arithmetic": "where the shell calculates",
    "brace": "inside ${ }", "here": _HERE,
}  # fmt: skip


@dataclass
class _Scan:
    """A scan of a command.

    `open`: the open constructs, the innermost last; `named`: those of them in which no value is
    allowed. Texts are sent by callers and scanned within requests: everything that is looked up by
    position is found beforehand, in one pass."""

    text: str
    find: Find
    at: int = 0
    open: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    found: list[NamePosition] = field(default_factory=list)

    def all(self) -> list[NamePosition]:
        while self.at < len(self.text):
            if (match := self.find(self.text, self.at)) is not None:
                self.take(match)
            else:
                self.step(self.open[-1] if self.open else "")
        return self.found

    def take(self, match: re.Match[str], fault: str | None = None) -> None:
        named = _WORDS[self.named[0]] if self.named else None
        self.found.append(
            NamePosition(match[1], match.start(), match.end(), fault or named or self.more(match))
        )
        self.at = match.end()

    def more(self, _: re.Match[str]) -> str | None:
        """Return why no value is allowed here although nothing is open; None if it is allowed."""
        return None

    def step(self, mode: str) -> None:
        """Consume the next token in the innermost open construct."""
        raise NotImplementedError

    def follows(self, *tokens: str) -> str | None:
        for token in tokens:
            if self.text.startswith(token, self.at):
                self.at += len(token)
                return token
        return None

    def escaped(self) -> None:
        """Consume an escape and the next character; a value there would lose its first quote."""
        self.at += 1
        if (match := self.find(self.text, self.at)) is not None:
            self.take(
                match,
                "behind a backslash" if self.text[self.at - 1] == "\\" else "behind an escape",
            )
        else:
            self.at += 1

    def push(self, *modes: str) -> None:
        self.open += modes
        self.named += (mode for mode in modes if mode in _WORDS)

    def pop(self) -> None:
        if self.open.pop() in _WORDS:
            self.named.pop()


# bash: an open index, or its end; then [[, ]], numeric comparisons between them, and case.
# Overlapping matches all count.
_SUBSCRIPT = re.compile(r"(?P<open>[A-Za-z0-9_]\[|[\s(]\[(?![\s\[]))|[\]\s]")
# The start of a command, and its arithmetic parts: bash runs a $( ) in the index of a name there,
# quoted or not.
_BEGINS = (
    r"(?:\A|[;&|(){}\n]|\b(?:then|do|else|elif|if|while|until|time|builtin|command)[ \t])"
    r"[ \t]*(?:![ \t]+)?"
)
_CALCULATES = re.compile(
    _BEGINS + r"(?:let|(?:declare|typeset|local)[ \t][^;&|()\n]{0,200}?-[A-Za-z]{0,20}i)\b[^;&|\n]*"
)
_NAMES = re.compile(
    _BEGINS
    + r"(?P<command>declare|typeset|local|unset|read|printf|test|\[\[?)[ \t](?P<words>[^;&|()\n]*)"
)
_INDEX = re.compile(_BEGINS + r"[A-Za-z_]\w*\[")
_LAST_WORDS_CHARACTERS_MAX = 200
# Options of read whose argument is not a name.
_READ_OPTION = re.compile(r"-\w*[ptnNdiu]")
_OPENED = re.compile(r"(?=\[\[)")
_CLOSED = re.compile(r"(?=\]\])")
_COMPARED = re.compile(r"(?=\s-(?:eq|ne|lt|le|gt|ge)\s)")
_CASE = re.compile(r"\bcase\b")
_POWERSHELL_MURKY = re.compile("@['\"\u2018-\u201f]|\\$\\(")


def _last_before(places: Sequence[int], at: int) -> int | None:
    """Return the last of these sorted places that precedes this one."""
    found = bisect_left(places, at)
    return places[found - 1] if found else None


def _inside(spans: Sequence[tuple[int, int]], at: int) -> bool:
    """Return True if a place is in one of these sorted, disjoint spans."""
    found = bisect_left(spans, (at,)) - 1
    return found >= 0 and at < spans[found][1]


def _indexes(text: str) -> Iterator[tuple[int, int]]:
    """Yield the indexes of assignments, each to its closing bracket, including blanks."""
    end = 0
    for match in _INDEX.finditer(text):
        if match.start() < end:
            continue
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
        yield match.start(), end


class _Posix(_Scan):
    """The scan for sh and bash. In doubt, no value is allowed."""

    def __init__(self, text: str, find: Find) -> None:
        super().__init__(text, find)
        self.here: list[tuple[str, bool]] = []
        self.murky = False
        self.doubles = 0
        self._subscripts = [
            (match.start(), match["open"] is not None) for match in _SUBSCRIPT.finditer(text)
        ]
        self._calculates = [match.span() for match in _CALCULATES.finditer(text)]
        self._indexes = list(_indexes(text))
        self._naming = [(*match.span("words"), match["command"]) for match in _NAMES.finditer(text)]
        self._opened = [match.start() for match in _OPENED.finditer(text)]
        self._closed = [match.start() for match in _CLOSED.finditer(text)]
        self._compared = [match.start() for match in _COMPARED.finditer(text)]
        self._last_case = max((match.start() for match in _CASE.finditer(text)), default=-1)

    def push(self, *modes: str) -> None:
        super().push(*modes)
        self.doubles += modes.count("double")

    def pop(self) -> None:
        self.doubles -= self.open[-1] == "double"
        super().pop()

    def more(self, match: re.Match[str]) -> str | None:
        if self.murky:
            return "behind a case inside of quotes, which cannot be analysed"
        at = match.start()
        subscript = bisect_left(self._subscripts, (at, False))
        if (
            (subscript and self._subscripts[subscript - 1][1])
            or _inside(self._calculates, at)
            or _inside(self._indexes, at)
        ):
            return "where the shell calculates"
        if self._is_a_name(at):
            return "where the name of a variable stands"
        return (
            "in a [[ ]] that compares numbers (write [ ] instead)"
            if self._in_comparison(match.start())
            else None
        )

    def _is_a_name(self, at: int) -> bool:
        """Return True if a command uses the value as a variable name, whose index it evaluates."""
        found = bisect_left(self._naming, (at + 1,)) - 1
        if found < 0 or at > self._naming[found][1]:
            return False
        start, _, command = self._naming[found]
        tail = self.text[max(start, at - _LAST_WORDS_CHARACTERS_MAX) : at]
        *words, begun = ["", *tail.split(), *([""] if not tail or tail[-1].isspace() else [])]
        before = words[-1] if words else ""
        match command:
            case "printf" | "test" | "[" | "[[":
                return before == "-v" and begun == ""
            case "read":
                return begun == "" and _READ_OPTION.fullmatch(before) is None and "<" not in before
            case "unset":
                return True
        return "=" not in begun

    def _in_comparison(self, at: int) -> bool:
        test = _last_before(self._opened, at - 1)
        if test is None:
            return False
        closed = bisect_left(self._closed, test)
        end = self._closed[closed] if closed < len(self._closed) else len(self.text)
        if end + len("]]") <= at:
            return False
        compared = bisect_left(self._compared, test)
        return compared < len(self._compared) and self._compared[compared] + len(" -eq ") <= end

    def step(self, mode: str) -> None:
        match mode:
            case "single":
                self._until("'")
            case "ansi":
                self._in_ansi()
            case "comment":
                self._in_comment()
            case "double":
                self._in_double()
            case "backtick":
                self._in_backticks()
            case "arithmetic":
                self._in_arithmetic()
            case "brace":
                self._in_brace()
            case _:
                self._bare(mode)

    def _until(self, end: str) -> None:
        if self.text[self.at] == end:
            self.pop()
        self.at += 1

    def _in_ansi(self) -> None:
        self.escaped() if self.text[self.at] == "\\" else self._until("'")

    def _in_backticks(self) -> None:
        self.escaped() if self.text[self.at] == "\\" else self._until("`")

    def _in_comment(self) -> None:
        if self.text[self.at] == "\n":
            self.pop()
        else:
            self.at += 1

    def _in_double(self) -> None:
        if self.text[self.at] == "\\":
            self.escaped()
        elif not self._substitution():
            self._until('"')

    def _substitution(self) -> bool:
        """Consume the start of a substitution, in quotes or not; return False if there is none."""
        if self.follows("$$"):
            return True
        if self.follows("`"):
            self.push("backtick")
        elif self.follows("$((", "$["):
            self.push(*["arithmetic"] * (2 if self.text[self.at - 1] == "(" else 1))
        elif self.follows("$("):
            # The end of a case pattern looks like the end of the substitution.
            self.murky = self.murky or (self.doubles > 0 and self._last_case >= self.at)
            self.push("paren")
        elif self.follows("${"):
            self.push("brace")
        else:
            return False
        return True

    def _in_arithmetic(self) -> None:
        if self.follows("(", "["):
            self.push("arithmetic")
        elif self.follows(")", "]"):
            self.pop()
        elif not self._quote() and not self._substitution():
            self.at += 1

    def _in_brace(self) -> None:
        if self.text[self.at] == "\\":
            self.escaped()
        elif self.text[self.at] == "'" and self.doubles:
            self.at += 1
        elif not self._quote() and not self._substitution():
            self._until("}")

    def _quote(self) -> bool:
        for token, mode in (("$'", "ansi"), ('$"', "double"), ("'", "single"), ('"', "double")):
            if self.follows(token):
                self.push(mode)
                return True
        return False

    def _bare(self, mode: str) -> None:
        char = self.text[self.at]
        if char == "\\":
            self.escaped()
        elif self._quote() or self._substitution():
            pass
        elif self.follows("(("):
            self.push("arithmetic", "arithmetic")
        elif self.follows("("):
            self.push("paren")
        elif char == "#" and (self.at == 0 or self.text[self.at - 1] in " \t\n;&|()"):
            self.push("comment")
        elif self.follows("<<<"):
            pass
        elif self.follows("<<"):
            self._here_begins()
        else:
            if char == ")" and mode == "paren":
                self.pop()
            self.at += 1
            if char == "\n" and self.here:
                self._here_bodies()

    def _here_begins(self) -> None:
        word = re.compile(r"(-?)[ \t]*((?:\\.|'[^'\n]*'|\"[^\"\n]*\"|[^\s;&|()<>'\"\\])*)").match(
            self.text, self.at
        )
        assert word is not None, "the pattern matches nothing, too"
        self.here.append((re.sub(r"[\\'\"]", "", word[2]), word[1] == "-"))

    def _here_bodies(self) -> None:
        self.push("here")
        for delimiter, tabs in self.here:
            while self.at < len(self.text):
                end = self.text.find("\n", self.at)
                line = self.text[self.at : end + 1 if end >= 0 else None]
                self._here_line(line)
                if (line.lstrip("\t") if tabs else line).removesuffix("\n") == delimiter:
                    break
        self.here.clear()
        self.pop()

    def _here_line(self, line: str) -> None:
        end = self.at + len(line)
        while self.at < end:
            if (match := self.find(self.text, self.at)) is not None:
                self.take(match)
            else:
                self.at += 1


class _PowerShell(_Scan):
    """The scan for PowerShell: backtick escapes, doubled quotes, and typographic quotes."""

    def __init__(self, text: str, find: Find) -> None:
        super().__init__(text, find)
        murky = _POWERSHELL_MURKY.search(text)
        self._clear_until = len(text) if murky is None else murky.end() - 1

    def step(self, mode: str) -> None:
        char = self.text[self.at]
        if mode == "block":
            self._block()
        elif mode == "comment":
            self.pop() if char == "\n" else None
            self.at += 1
        elif mode in ("single", "double"):
            self._in_quotes(mode, char)
        elif char == "`":
            self.escaped()
        elif self.follows("<#"):
            self.push("block")
        elif char == "#":
            self.push("comment")
        else:
            if char in _SINGLE or char in _DOUBLE:
                self.push("single" if char in _SINGLE else "double")
            self.at += 1

    def _block(self) -> None:
        if self.follows("#>"):
            self.pop()
        else:
            self.at += 1

    def _in_quotes(self, mode: str, char: str) -> None:
        if mode == "double" and char == "`":
            self.escaped()
            return
        if char in (_SINGLE if mode == "single" else _DOUBLE):
            self.pop()
        self.at += 1

    def more(self, match: re.Match[str]) -> str | None:
        return (
            "behind a here-string or $( ), which cannot be analysed"
            if match.start() > self._clear_until
            else None
        )


class _Cmd(_Scan):
    """The scan for cmd.exe: double quotes and caret escapes."""

    def step(self, mode: str) -> None:
        char = self.text[self.at]
        if char == "^" and mode != "double":
            self.escaped()
            return
        if char == '"':
            self.pop() if mode == "double" else self.push("double")
        self.at += 1


_SINGLE: Sequence[str] = "'\u2018\u2019\u201a\u201b"
_DOUBLE: Sequence[str] = '"\u201c\u201d\u201e'
