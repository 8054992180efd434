"""Scan Perl and Node programs by their words alone, without a parser.

Calls that run a command are found; the command is judged if it is a plain text.
"""

from __future__ import annotations

import re

from opsjobs.safety.command_dispatch import run
from opsjobs.safety.paths import is_unknown
from opsjobs.safety.perl_node_values import STRING, PerlNodeValues
from opsjobs.safety.symbolic_words import as_source
from opsjobs.safety.trace import Io, SourcePosition, Trace

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
    """Look over a program of Perl."""
    _look_over("perl", trace, text, place)


def node(trace: Trace, text: str, place: SourcePosition) -> None:
    """Look over a program of Node."""
    _look_over("node", trace, text, place)


def other(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record a language without a reader, and judge the commands in its string literals."""
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
    if (
        language == "node" and (end := text.rfind("*/") + 2) > 1
    ):  # behind the last end none is closed
        text = _BLOCK_COMMENT.sub("", text[:end]) + text[end:]
    return _COMMENT[language].sub("", text)


def _at(place: SourcePosition, found: re.Match[str]) -> SourcePosition:
    line_start = found.string.rfind("\n", 0, found.start()) + 1
    line_end = found.string.find("\n", found.end())
    return place.within(found.string[line_start : line_end if line_end >= 0 else None])
