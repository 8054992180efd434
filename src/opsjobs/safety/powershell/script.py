"""Read a PowerShell script: its commands and methods, with their pipe input.

Also the words after `powershell` on a command line: a command, an encoded one, or a file.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from tree_sitter import Node

from opsjobs.safety.command_dispatch import run
from opsjobs.safety.paths import is_unknown
from opsjobs.safety.powershell.names import ALIASES, FETCHES, PROGRAMS, name_of
from opsjobs.safety.powershell.subjects import Subjects, match_needed
from opsjobs.safety.powershell.values import PowerShellValues
from opsjobs.safety.symbolic_words import MAYBE_EMPTY, SOMETHING, as_source, cleared, is_known
from opsjobs.safety.trace import Io, SourcePosition, Trace

_CMDLET = re.compile(r"[a-z]+-[a-z]\w*")
_RUNS_TEXT = (
    "scriptblock::create",
    ".invokescript",
    ".newscriptblock",
    ".addscript",
    "management.automation.scriptblock::create",
)
_DELETES = ("io.file::delete", "io.directory::delete")
_BACKTICK = re.compile(r"`(\r?\n)?")
_REMARKS = re.compile(r"<#.*?(?:#>|\Z)|#[^\n]*", re.DOTALL)
_NO_NAME = re.compile(r"\s*(?:\{|-?\d+\.\.)")
_MATCHES_MAX = 64
_FOR_EVER = re.compile(
    r"while\s*\(\s*(\$true|1)\s*\)(?!.*(start-sleep|\bsleep\b|-wait\b|\bbreak\b|\breturn\b))"
    r".*\b(start-process|saps|start-job)\b",
    re.IGNORECASE | re.DOTALL,
)
_FOR_EVER_WORDS = 8
# Commands that fetch, and the option that names the destination.
_SAVES = {
    "invoke-webrequest": "-outfile",
    "invoke-restmethod": "-outfile",
    "start-bitstransfer": "-destination",
}
_SAVES_MIN = 1
# Methods that end processes and services, and the commands that do the same.
_ENDS = {
    **dict.fromkeys(("kill", "terminate"), ("stop-process", "-Force")),
    **dict.fromkeys(("stop", "stopservice"), ("stop-service",)),
}
_TAKES_SUBJECTS = frozenset({"stop-process", "stop-service", "taskkill"})
_CALLS_METHOD = frozenset({"foreach-object", "invoke-cimmethod", "invoke-wmimethod"})
_TABLE = re.compile(r"@\w+\Z")


def read(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the effects of this script in the trace."""
    _PowerShellReading(trace, text, place).whole()


class _PowerShellReading:
    def __init__(self, trace: Trace, text: str, place: SourcePosition) -> None:
        self._trace = trace
        self._outer = place
        self._values = PowerShellValues(text, trace.budget, place.given)
        self._values.scopes.is_open = place.depth <= 1 and place.given.arguments is None
        self._functions: set[str] = set()
        self._aliases = dict(ALIASES)
        self._subjects = Subjects(self._values, self._name, lambda node: self._split_words(node)[0])

    def whole(self) -> None:
        values = self._values
        if values.root.has_error and _REMARKS.sub("", values.text(values.root)).strip():
            self._trace.event("unreadable", self._place(values.root))
        nodes = list(values.nodes())
        for node in nodes:
            values.define(node)
            if node.type == "function_statement":
                self._functions.add(name_of(node))
            elif node.type == "while_statement":
                self._trace.budget.read(node.end_byte - node.start_byte, _FOR_EVER_WORDS)
                if _FOR_EVER.match(values.text(node)):
                    self._trace.event("fork_bomb", self._place(node))
        values.begin()
        for node in nodes if self._functions else ():
            if node.type == "command" and (name := self._name_as_written(node)) in self._functions:
                values.scopes.enter(node)
                values.scopes.bind(name, self._split_words(node)[0])
        for node in nodes:
            if node.type in ("pipeline_chain", "invokation_expression"):
                values.scopes.enter(node)
                (self._chain if node.type == "pipeline_chain" else self._method)(node)

    def _place(self, node: Node) -> SourcePosition:
        return self._outer.within(self._values.beginning(node))

    def _chain(self, node: Node) -> None:
        fed: list[str] | None = None
        sources: tuple[str, ...] = ()
        piped: list[str] = []
        for stage in node.named_children:
            if stage.type == "command":
                self._command(stage, fed, sources)
                self._end_subjects(stage, piped)
                name = self._name(stage)
                self._values.scopes.feed(stage, name[0] if name else "", fed)
                sources = (*sources, *(n for n in name if is_known(n)))
                if name == ["write-output"]:
                    fed = self._split_words(stage)[0]
                elif name == ["get-childitem"]:
                    fed = self._list_items(stage)
                else:
                    fed = None
            else:
                fed = self._values.evaluate(stage)
            sources = (*sources, *self._fetched(stage))
            piped = self._subjects.after(stage, piped)

    def _end_subjects(self, stage: Node, piped: list[str]) -> None:
        """Record the end of processes and services that another command has got."""
        names, place = self._name(stage), self._place(stage)
        if (_TAKES_SUBJECTS | _CALLS_METHOD).isdisjoint(names):
            return
        words = self._split_words(stage)[0]
        elements = stage.child_by_field_name("command_elements")
        given = elements.named_children if elements is not None else ()
        subjects = [*piped, *(one for part in given for one in self._subjects.find(part))]
        for name in _TAKES_SUBJECTS.intersection(names):
            self._ended((name, *words), subjects, place)
        if subjects and not _CALLS_METHOD.isdisjoint(names):
            for word in words:
                if (command := _ENDS.get(word.lower())) is not None:
                    self._ended(command, subjects, place)

    def _ended(
        self, command: tuple[str, ...], subjects: Sequence[str], place: SourcePosition
    ) -> None:
        """Record a command that ends these subjects, and all that its wildcards match."""
        subjects = (*subjects, *match_needed(command[0], (*command[1:], *subjects)))
        if subjects:
            self._trace.call((*command, *subjects), place, dialect="powershell")

    def _list_items(self, stage: Node) -> list[str] | None:
        found = self._values.evaluate(stage)
        return found if all(is_known(path) for path in found) else None

    def _fetched(self, node: Node) -> tuple[str, ...]:
        """Return ("curl",) if the output of a stage was received over the network."""
        self._trace.budget.read(node.end_byte - node.start_byte, len(FETCHES))
        text = self._values.text(node).lower().replace("`", "")
        return ("curl",) if any(word in text for word in FETCHES) else ()

    def _name(self, command: Node) -> list[str]:
        return [
            plain for name in self._paths(command) for plain in self._matching(self._plain(name))
        ]

    def _paths(self, command: Node) -> list[str]:
        """Return the possible names of a command, with its folder."""
        node = command.child_by_field_name("command_name")
        if node is None:
            return [MAYBE_EMPTY]
        inner = (
            node.named_children[0]
            if node.type == "command_name_expr" and node.named_children
            else node
        )
        if _NO_NAME.match(self._values.text(node)):
            return []
        if inner.type in ("command_name", "command_name_expr"):
            names = [self._values.expanded(_BACKTICK.sub("", self._values.text(inner)))]
        elif inner.type == "path_command_name":
            names = [self._values.expanded(self._values.text(inner))]
        else:
            names = self._values.evaluate(inner)
        return names

    def _matching(self, name: str) -> list[str]:
        """Return the commands with rules that a pattern of Get-Command matches, as `r*m-it*m`."""
        if "*" not in name:
            return [name]
        return [n for n in sorted(self._trace.names) if fnmatchcase(n, name)][:_MATCHES_MAX] or [
            MAYBE_EMPTY
        ]

    def _name_as_written(self, command: Node) -> str:
        node = command.child_by_field_name("command_name")
        return self._values.text(node).lower() if node is not None else ""

    def _plain(self, name: str) -> str:
        file = name.lower().strip("'\"").replace("\\", "/").rpartition("/")[2]
        lower = file.removesuffix(".exe")
        return lower if file in PROGRAMS else self._aliases.get(lower, lower)

    def _split_words(self, command: Node) -> tuple[list[str], list[str]]:
        """Return the arguments of a command, and the files that it writes."""
        elements = command.child_by_field_name("command_elements")
        words: list[str] = []
        writes: list[str] = []
        for part in elements.named_children if elements is not None else ():
            text = self._values.text(part)
            if part.type == "command_argument_sep":
                continue
            if part.type == "redirection":
                writes += [self._values.expanded(text.lstrip("0123456789*>& ").strip("'\""))]
            elif part.type == "command_parameter":
                words.append(text)
            elif _TABLE.match(text):
                words += self._values.table(text)
            else:
                words += self._values.evaluate(part) if "{" not in text[:1] else ["{}"]
        return words, writes

    def _command(self, node: Node, fed: list[str] | None, sources: tuple[str, ...]) -> None:
        words, writes = self._split_words(node)
        place = self._place(node)
        fed_text = "\n".join(fed) if fed is not None and all(is_known(t) for t in fed) else None
        io = Io(
            sources,
            (lambda: fed_text) if fed_text is not None else None,
            tuple(("write", path) for path in writes),
        )
        for path in self._paths(node):
            self._ran(path, place)
        for name in self._name(node):
            if not name or not is_known(name):
                self._trace.event("dynamic_command", place)
                self._trace.call(("?", *words), place, dialect="powershell", io=io)
                continue
            self._trace.call((name, *words, *(fed or ())), place, dialect="powershell", io=io)
            if name in _SAVES:
                self._trace.downloaded.update(map(_key, _saved(name, words)))
            self._inside(name, node, words, place, io)

    def _inside(
        self, name: str, node: Node, words: list[str], place: SourcePosition, io: Io
    ) -> None:
        plain = [w for w in words if not w.startswith("-")]
        if name == "invoke-expression":
            self._code(
                node,
                plain or ([io.fed() or MAYBE_EMPTY] if io.sources or io.text else []),
                place,
                io,
            )
        elif name == "start-process" and plain:
            self._ran(plain[0], place)
            run(
                self._trace,
                [self._plain(plain[0]), *(w for text in plain[1:] for w in text.split())],
                place,
            )
            self._trace.call(
                [self._plain(plain[0]), *(w for text in plain[1:] for w in text.split())],
                place,
                dialect="cmd",
            )
        elif name in ("set-alias", "new-alias") and len(plain) > 1:
            self._aliases[plain[0].lower()] = self._plain(plain[1])
        elif name in ("invoke-wmimethod", "invoke-cimmethod") and any(
            "win32_process" in w.lower() for w in words
        ):
            if not any(w.lower() == "terminate" for w in words):
                self._trace.event("dynamic_program", place)
        elif (written := self._name_as_written(node)) in ALIASES:
            # Outside of Windows it is the program of that name.
            run(self._trace, [written, *words], place, io)
        elif not _CMDLET.fullmatch(name) and name not in self._functions:
            self._trace.call((name, *words), place, dialect="cmd", io=io)
            if not name.endswith((".ps1", ".psm1")):
                run(self._trace, [name, *words], place, io)

    def _ran(self, path: str, place: SourcePosition) -> None:
        """Record a file until the end: this text may download or write it."""
        if is_known(path.replace(SOMETHING, "")) and ("\\" in path or "/" in path or "." in path):
            self._trace.ran.append(("powershell", _key(path), place))

    def _code(self, node: Node, texts: list[str], place: SourcePosition, io: Io) -> None:
        text = " ".join(texts)
        if texts and not is_unknown(text) and is_known(text):
            self._trace.read("powershell", text, place)
        elif self._fetched(node) or "curl" in io.sources:
            self._trace.event("download_to_shell", place)
        else:
            self._trace.event("dynamic_program", place)

    def _method(self, node: Node) -> None:
        name, of, arguments = self._values.method(node)
        place = self._place(node)
        self._trace.call((name, *arguments), place, dialect="powershell")
        called = arguments[0] if name == ".foreach" and arguments else name.removeprefix(".")
        command = _ENDS.get(called.lower())
        if command is not None and of is not None:
            self._ended(command, self._subjects.find(of), place)
        if name == ".downloadfile" and len(arguments) > 1:
            self._trace.downloaded.add(_key(arguments[1]))
        if name in _RUNS_TEXT:
            self._code(node, arguments or [MAYBE_EMPTY], place, Io())
        elif name in _DELETES and arguments:
            self._trace.call(
                ("remove-item", "-Recurse", *arguments[:1]), place, dialect="powershell"
            )
        elif name == "diagnostics.process::start" and arguments:
            run(
                self._trace,
                [
                    self._plain(arguments[0]),
                    *(w for text in arguments[1:] for w in as_source(text).split()),
                ],
                place,
            )
        elif name == ".shellexecute" and arguments:
            run(
                self._trace,
                [self._plain(arguments[0]), *(w for text in arguments[1:2] for w in text.split())],
                place,
            )


def _key(path: str) -> str:
    """Return a Windows path in one spelling."""
    return path.lower().replace("\\", "/").removeprefix("./")


def _saved(name: str, words: list[str]) -> list[str]:
    """Return the paths that a downloading command saves to."""
    option = _SAVES[name]
    for n, word in enumerate(words[:-1]):
        if len(word) > _SAVES_MIN and option.startswith(word.lower()):
            return [words[n + 1]]
    plain = [word for word in words if not word.startswith("-")]
    return plain[1:2] if option == "-destination" else []


_VALUED = (
    "-executionpolicy",
    "-ep",
    "-windowstyle",
    "-version",
    "-inputformat",
    "-outputformat",
    "-configurationname",
    "-workingdirectory",
    "-wd",
    "-psconsolefile",
    "-settingsfile",
    "-custompipename",
)
_ENCODED = ("-encodedcommand", "-ec")
_ARGUMENTS = ("-encodedarguments", "-ea")


def read_line(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the effects of `powershell WORDS` in the trace; `text`: the words, one a line."""
    words = text.split("\n")
    while words and words[0][:1] in ("-", "/", "\u2013", "\u2014") and words[0] != "-":
        option = "-" + words.pop(0)[1:].lower()
        if _is(option, _ENCODED):
            _encoded(trace, words, place)
            return
        if option in ("-c", "-command") or (len(option) > 2 and "-command".startswith(option)):
            break
        if option in ("-f", "-file") or (len(option) > 2 and "-file".startswith(option)):
            return
        if _is(option, _VALUED) and words:
            words.pop(0)
    _command(trace, words, place)


def _is(option: str, names: Sequence[str]) -> bool:
    """Return True for a prefix of an option, as PowerShell accepts it: `-e`, `-enc`, `-ex`."""
    return any(name.startswith(option) for name in names) and option not in ("-", "-c", "-f")


def _encoded(trace: Trace, words: list[str], place: SourcePosition) -> None:
    try:
        text = (
            base64.b64decode(words[0], validate=False).decode("utf-16-le")
            if words and is_known(words[0])
            else None
        )
    except (binascii.Error, ValueError):
        text = None
    if text is None:
        trace.event("dynamic_program", place)
    else:
        read(trace, cleared(text), place)


def _command(trace: Trace, words: list[str], place: SourcePosition) -> None:
    text = " ".join(words).strip()
    if text == "-":
        trace.event("dynamic_program", place)
    elif text and not (len(words) >= 1 and words[0].lower().endswith(".ps1")):
        read(trace, text, place)
