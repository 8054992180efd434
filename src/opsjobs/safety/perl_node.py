"""Scan Perl and Node programs by their words alone, without a parser.

Calls that run a command are found; the command is checked if it is a plain text, or an argument
whose value the text determines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from opsjobs.safety.budget import Budget, check_size
from opsjobs.safety.command_dispatch import run
from opsjobs.safety.paths import is_unknown
from opsjobs.safety.symbolic_words import LATER, MAYBE_EMPTY, as_source
from opsjobs.safety.trace import Io, SourcePosition, Trace

# One that is not closed extends to the end, so that each letter is read once.
STRING = (
    r"""(?:"((?:[^"\\]|\\.)*+)(?:"|\Z)|'((?:[^'\\]|\\.)*+)(?:'|\Z)|`((?:[^`\\]|\\.)*+)(?:`|\Z))"""
)
_STRING = re.compile(STRING, re.DOTALL)
_PIECES = re.compile(
    STRING + r"|[^\s,;()\[\]{}.+\"'`]++(?:\[[^\]]{0,99}+\])?"
    r"(?:\.\w++(?:\[[^\]]{0,99}+\])?(?:\(\d*+\))?(?:\[[^\]]{0,99}+\])?)*+|[,;.+()\[\]{}]",
    re.DOTALL,
)
_ASSIGNED = {
    "perl": re.compile(r"(?:\b(?:my|our|local)\s+)?\$(\w+)\s*=(?![=~>])\s*([^;\n]{1,2000})"),
    "node": re.compile(r"\b(?:const|let|var)\s+(\w+)\s*=(?![=>])\s*([^;\n]{1,2000})"),
}
_TAKEN = {
    "perl": re.compile(r"\b(?:my|our)\s*+\(([^)]{0,999}+)\)\s*+=\s*+(@ARGV|@_)"),
    "node": re.compile(
        r"\b(?:const|let|var)\s*+\[([^\]]{0,999}+)\]\s*+=\s*+(process\.argv(?:\.slice\(2\))?)"
    ),
}
_ARGUMENT = re.compile(
    r"\$ARGV\[(-?[0-9]{1,9})\]|process\.argv\[([0-9]{1,9})\]"
    r"|process\.argv\.slice\(2\)\[([0-9]{1,9})\]"
)
_WITHIN = {
    "perl": re.compile(r"\$ARGV\[\d+\]|\$\{?(\w+)\}?"),
    "node": re.compile(r"\$\{([^{}]{0,999}+)\}"),
}
_DEPTH_MAX = 4
_CHARACTERS_A_STEP = 16


class PerlNodeValues:
    """The values of variables and arguments in a Perl or Node program.

    `arguments`: those of the program, None if they are unknown. `is_file`: True if the program is a
    file, because its name is then an argument, too.
    """

    def __init__(
        self,
        language: str,
        text: str,
        arguments: Sequence[str] | None,
        budget: Budget,
        *,
        is_file: bool,
    ) -> None:
        self._language = language
        self._budget = budget
        self._arguments = arguments
        self._is_file = is_file
        self._assigned = {found[1]: found[2] for found in _ASSIGNED[language].finditer(text)}
        for found in _TAKEN[language].finditer(text):
            from_ = 2 if found[2] == "process.argv" else 0
            for n, name in enumerate(found[1].split(",")):
                place = (
                    f"$ARGV[{n}]" if language == "perl" else f"process.argv.slice(2)[{n - from_}]"
                )
                if (plain := name.strip().lstrip("$")) and (found[2] != "@_" and n >= from_):
                    self._assigned[plain] = place

    def arguments(self, text: str) -> list[str]:
        """Return the arguments of a call that begins here; items of a list in it are words, too."""
        self._budget.spend(len(text) // _CHARACTERS_A_STEP)
        return [self._text(list(expression), 0) for expression in _expressions(text)]

    def _text(self, pieces: Sequence[str], depth: int) -> str:
        made, size = list[str](), 0
        for piece in pieces:
            self._budget.spend()
            made.append(self._piece(piece, depth))
            check_size(size := size + len(made[-1]))
        return "".join(made)

    def _piece(self, piece: str, depth: int) -> str:
        string = _STRING.fullmatch(piece)
        if string is not None:
            plain = next(group for group in string.groups() if group is not None)
            inner = (
                plain
                if piece[0] == "'" or (piece[0] == '"' and self._language == "node")
                else self._put_in(plain, depth)
            )
            return re.sub(r"\\([\\\"'`$])", r"\1", inner)
        found = _ARGUMENT.fullmatch(piece)
        if found is not None:
            return self._argument(found)
        if self._language == "perl" and piece == "shift":
            return self._numbered(0)
        expression = self._assigned.get(piece.lstrip("$"))
        if expression is None or depth >= _DEPTH_MAX:
            return MAYBE_EMPTY
        self._budget.spend(len(expression) // _CHARACTERS_A_STEP)
        first = next(_expressions(expression), ())
        return self._text(first, depth + 1)

    def _put_in(self, text: str, depth: int) -> str:
        made, size, at = list[str](), len(text), 0
        for found in _WITHIN[self._language].finditer(text):
            self._budget.spend()
            piece = self._piece((found[1] or found[0]).strip(), depth + 1)
            check_size(size := size + len(piece))
            made += (text[at : found.start()], piece)
            at = found.end()
        return "".join((*made, text[at:]))

    def _argument(self, match: re.Match[str]) -> str:
        if match[2] is None:
            return self._numbered(int(match[1] or match[3]))
        at = int(match[2])
        return self._numbered(
            at - 2
            if self._is_file or self._arguments is None or at > len(self._arguments)
            else at - 1
        )

    def _numbered(self, at: int) -> str:
        if self._arguments is None:
            return LATER
        return self._arguments[at] if 0 <= at < len(self._arguments) else ""


def _expressions(text: str) -> Iterator[tuple[str, ...]]:
    """The pieces of each argument, up to the end of the call; `.` and `+` put them together."""
    found: list[str] = []
    open_ = 0
    for match in _PIECES.finditer(text):
        piece = match[0]
        if piece in "([{":
            open_ += 1
        elif piece in ")]}":
            open_ -= 1
            if open_ < 0:
                break
        elif piece == ";":
            break
        elif piece == ",":
            if found:
                yield tuple(found)
            found = []
        elif piece not in ".+":
            found.append(piece)
    if found:
        yield tuple(found)


_COMMENT = {"perl": re.compile(r"(?m)^[^\S\n]*+#.*$"), "node": re.compile(r"(?m)^[^\S\n]*+//.*$")}
_BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_RUNS = {
    # A whole word, not a part of a text, a key or a path: `'system' => 1`, `$h{"system"}`,
    # `/run/systemd/system`.
    "perl": re.compile(
        r"(?<![\w$@%&\"'{/>:.-])(?:system|exec|qx)\b(?!\s*+=>)\s*+\(?\s*+(?=[\"'`$])"
    ),
    "node": re.compile(r"\b(?:exec|execSync|spawn|spawnSync|execFile|execFileSync|fork)\s*\(\s*"),
}
_DYNAMIC = {
    "perl": re.compile(
        r"(?<![\w$@%&\"'{/>:.-])(?:(?:system|exec|qx|syscall)\b(?!\s*+=>)\s*+\(?\s*+[$@(\"'{/|]"
        r"|(?:do|require)\b\s*+\(?\s*+[$@]|eval\b(?!\s*+(?:\{|=>)))"
        r"|`|\bopen\b[^;|]{0,2000}+\|(?!\|)"
    ),
    "node": re.compile(
        r"\b(?:exec|execSync|spawn|spawnSync|execFile|execFileSync|fork|eval|Function"
        r"|runInThisContext|runInNewContext)\s*\(|\bchild_process\b"
    ),
}
# Only a few of them also delete what is below.
_DELETES = {
    "perl": re.compile(r"\b(unlink|rmtree|remove_tree)\b\s*+\(?\s*+(?=[\"'`$])"),
    "node": re.compile(r"\b(rmSync|rm|rmdirSync|rmdir|unlinkSync|unlink|rimraf)\s*\(\s*"),
}
_ONE_FILE = frozenset({"unlink", "unlinkSync"})
_CALL_CHARACTERS_MAX = 2_000
_WRITES = {
    "perl": re.compile(r"\bopen\b[^;]{0,200}?[\"']\s*+>{1,2}[\"']?\s*+[,.]?\s*+[\"']?(/[^\"';]*)"),
    "node": re.compile(
        r"\b(?:writeFileSync|writeFile|appendFileSync|appendFile"
        r"|createWriteStream)\s*\(\s*[\"'`](/[^\"'`]*)"
    ),
}
_OPTIONS = re.compile(r"(cwd|env|stdio|encoding|timeout|shell|input|maxBuffer|\ue000)\b|\ue000\Z")
_FORKS = re.compile(
    r"\bfork\s++while\s++(?:fork\b|1)|\bwhile\s*+\(?\s*+1?\s*+\)?\s*+\{?\s*+fork"
    r"|\bfor\s*+\(\s*+;\s*+;\s*+\)\s*+\{?\s*+(?:\w{0,100}\.)?fork"
)
_SOCKET = re.compile(
    r"\bSocket\b|\bnet\.(Socket|connect|createConnection)\b|require\(['\"]net['\"]\)"
)
_DECODES = re.compile(
    r"\beval\b[^;]{0,200}\b(?:decode_base64|unpack|uncompress|decrypt)\b"
    r"|\b(?:eval|Function|execSync|exec)\s*\([^;]{0,200}"
    r"(?:atob|['\"]base64['\"]|['\"]hex['\"]|inflate|gunzip|decipher)"
)
# In any language: a string literal, or the text after a word that starts a command.
_TEXTS = re.compile(STRING + r"|\b(?:spawn|exec|system|send)\s++([^\n\"'`(]++)", re.DOTALL)
_SHELL = re.compile(r"/bin/(?:ba|da|z)?sh|\bcmd\.exe\b|\bspawn\b")


def perl(trace: Trace, text: str, place: SourcePosition) -> None:
    """Scan a Perl program."""
    _look_over("perl", trace, text, place)


def node(trace: Trace, text: str, place: SourcePosition) -> None:
    """Scan a Node program."""
    _look_over("node", trace, text, place)


def other(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record a language without a reader, and check the commands in its string literals."""
    trace.event("unknown_language", place)
    trace.budget.spend(len(text) // 64 + 1)
    for found in _TEXTS.finditer(text):
        command = next((group for group in found.groups() if group is not None), "").strip()
        words = command.split(maxsplit=1)
        if words and words[0].rpartition("/")[2] in trace.names:
            trace.read("bash", command, _at(place, found))


def _look_over(language: str, trace: Trace, text: str, place: SourcePosition) -> None:
    trace.budget.spend(len(text) // 64 + 1)
    text = _plain(language, text)
    here = place.within(text)
    values = PerlNodeValues(
        language, text, place.given.arguments, trace.budget, is_file=place.depth <= 1
    )
    for found in _RUNS[language].finditer(text):
        words = values.arguments(text[found.end() : found.end() + _CALL_CHARACTERS_MAX])
        if len(words) > 1 and not _OPTIONS.match(words[1]):
            run(trace, words, _at(place, found))
        elif words and not is_unknown(words[0]):
            trace.read("bash", as_source(words[0]), _at(place, found))
    for found in _DELETES[language].finditer(text):
        words = values.arguments(text[found.end() : found.end() + _CALL_CHARACTERS_MAX])[:1]
        run(trace, ["rm", *(() if found[1] in _ONE_FILE else ("-rf",)), *words], _at(place, found))
    for found in _WRITES[language].finditer(text):
        trace.call((":",), _at(place, found), io=Io(writes=(("write", found[1]),)))
    if _FORKS.search(text):
        trace.event("fork_bomb", here)
    if _SOCKET.search(text) and _SHELL.search(text):
        trace.event("reverse_shell", here)
    dynamic = _DYNAMIC[language].search(text)
    if dynamic is not None:
        trace.event(
            "decoded_program" if _DECODES.search(text) else "dynamic_program", _at(place, dynamic)
        )


def _plain(language: str, text: str) -> str:
    """Return the text without its comments."""
    if language == "node" and (end := text.rfind("*/") + 2) > 1:
        # After the last closing mark no comment is closed.
        text = _BLOCK_COMMENT.sub("", text[:end]) + text[end:]
    return _COMMENT[language].sub("", text)


def _at(place: SourcePosition, match: re.Match[str]) -> SourcePosition:
    line_start = match.string.rfind("\n", 0, match.start()) + 1
    line_end = match.string.find("\n", match.end())
    return place.within(match.string[line_start : line_end if line_end >= 0 else None])
