"""Walk a shell script from top to bottom.

Every command that it may run is recorded, in any branch, with its input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from tree_sitter import Node

from opsjobs.safety.command_dispatch import run
from opsjobs.safety.paths import normal
from opsjobs.safety.posix.definitions import ALL, DECLARED_MAX, Definitions
from opsjobs.safety.posix.inputs import Inputs
from opsjobs.safety.posix.parsing import Script
from opsjobs.safety.posix.values import PosixValues
from opsjobs.safety.posix.variables import Assigned, VariableFrame, shifts_in
from opsjobs.safety.question import ProgramInputs
from opsjobs.safety.symbolic_words import MAYBE_EMPTY, SPLIT, as_source, is_known, render_word
from opsjobs.safety.trace import NOTHING, Io, SourcePosition, Trace, excerpt_of

NESTING_MAX = 150
_INLINED_MAX = 32
ITSELF = "this-script"
_FEEDERS_MAX = 64
_PLAIN = frozenset({"word", "number", "raw_string", "simple_expansion"})
_READS = frozenset({"read", "mapfile", "readarray"})
_LINES_READ_MAX = 64
_STARTS_ITSELF = re.compile(
    r'\s*(?:(?:/bin/|/usr/bin/)?(?:ba|da|z|k)?sh\s+)?"?(?:\$0|\$\{0\}|\$BASH_SOURCE)"?\s*\Z'
)


def read(trace: Trace, text: str, place: SourcePosition) -> None:
    """Record the effects of this script in the trace."""
    ScriptWalk(trace, Script(text, trace.budget), place).whole()


def read_beginning(trace: Trace, beginning: Script, place: SourcePosition) -> None:
    """Record the effects of the commands with which a script begins.

    Its functions count only if they are called here: what follows may set their variables.
    """
    ScriptWalk(trace, beginning, place).whole(uncalled=False)


class ScriptWalk:
    """One script. Definitions are collected first: an assignment counts wherever it appears."""

    def __init__(self, trace: Trace, script: Script, place: SourcePosition) -> None:
        self._trace = trace
        self._script = script
        self._outer = place
        self._cwd = place.cwd
        self._values = PosixValues(script, trace.budget)
        self._inputs = Inputs(script, self._values)
        self._defined = Definitions(script, self._values, trace.budget)
        self._children = ProgramInputs(variables=self._exported, shell=self._own)
        variables = self._values.variables
        variables.outer = place.given.variables
        if place.given.arguments is not None:
            variables.positional.append(
                VariableFrame(place.given.arguments, shifts_in(script.text(script.root)))
            )
        if place.given.zero is not None:
            variables.zero = place.given.zero
        elif place.depth <= 1:
            # Within another program its words may give it any name: `sh -c '$0 -rf /' rm`.
            variables.zero = ITSELF
        self._inlined: set[str] = set()
        self._stack: list[str] = []
        self._count = 0
        self._nesting = 0
        self._kinds: dict[str, Callable[[Node, Io], None]] = {
            "command": self._command,
            "pipeline": self._pipeline,
            "redirected_statement": self._redirected,
            "function_definition": self._definition,
            "subshell": self._subshell,
            "declaration_command": self._declared,
            "unset_command": self._declared,
            "variable_assignment": self._within,
            "comment": lambda _, __: None,
            "heredoc_body": self._within,
        }

    def whole(self, *, uncalled: bool = True) -> None:
        """Read everything: definitions, then commands, then the functions that are never called.

        `uncalled`: those functions are read, too.
        """
        for fault in self._script.faults():
            self._trace.event("unreadable", self._place(fault))
            break
        self._defined.collect(self._script.root)
        for node in self._defined.preloads:
            self._trace.event("preload", self._place(node))
        for node in self._defined.histories:
            self._trace.call(("export", self._script.text(node)), self._place(node))
        if self._values.variables.zero == ITSELF and self._multiplies(self._script.root):
            self._trace.event("fork_bomb", self._place(self._script.root))
        self._statement(self._script.root, NOTHING)
        for name, node in self._defined.functions.items():
            if uncalled and name not in self._inlined:
                self._body(name, node, None)

    # --- statements

    def _place(self, node: Node) -> SourcePosition:
        excerpt = self._outer.excerpt or excerpt_of(self._script.original_text(node))
        return SourcePosition(excerpt, self._outer.depth, self._cwd, self._children)

    def _exported(self, name: str) -> Sequence[str]:
        """Return the values that a program run from here finds for this name."""
        outer = self._outer.given.child_lookup()(name)
        if name not in self._values.variables.given:
            return outer
        return (
            self._values.variables.look_up(name)
            if outer or name in self._defined.exports or ALL in self._defined.exports
            else ()
        )

    def _all(self, name: str) -> Sequence[str]:
        variables = self._values.variables
        return (
            variables.look_up(name)
            if name in variables.given
            else self._outer.given.variables(name)
        )

    def _own(self) -> ProgramInputs:
        """Return this shell's own arguments and variables, for texts that it evaluates."""
        frames = self._values.variables.positional
        return ProgramInputs(
            frames[-1].words if frames else None,
            self._values.variables.zero,
            self._all,
            self._exported,
        )

    def _statement(self, node: Node, io: Io) -> None:
        self._trace.budget.spend()
        kind = self._kinds.get(node.type)
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            self._trace.event("too_deep", self._place(node))
        elif kind is not None:
            kind(node, io)
        else:
            for child in node.named_children:
                self._statement(child, io)
        self._nesting -= 1

    def _within(self, node: Node, io: Io) -> None:
        """Walk the programs within the words of a node: `$(…)`, `<(…)`."""
        waiting = list(node.named_children)
        while waiting:
            child = waiting.pop()
            self._trace.budget.spend()
            if child.type in ("command_substitution", "process_substitution"):
                fed = Io((*io.sources, "tee")) if child.children[0].type == ">(" else NOTHING
                for statement in child.named_children:
                    self._statement(statement, fed)
            elif child.named_child_count:
                waiting += child.named_children

    def _declared(self, node: Node, io: Io) -> None:
        self._within(node, io)
        text = self._script.text(node)
        self._trace.budget.read(len(text))
        self._trace.call(text.split(maxsplit=DECLARED_MAX), self._place(node), io=io)

    def _definition(self, node: Node, _: Io) -> None:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if (
            name is not None
            and body is not None
            and self._calls_itself(self._script.text(name), body)
        ):
            self._trace.event("fork_bomb", self._place(node))

    def _calls_itself(self, name: str, body: Node) -> bool:
        """Return True for a fork bomb: it calls itself twice at once, or once in the background."""
        waiting = [body]
        while waiting:
            node = waiting.pop()
            self._trace.budget.spend()
            called = [
                c
                for c in node.named_children
                if c.type == "command" and self._script.first_word(c) == name
            ]
            if node.type == "pipeline" and len(called) > 1:
                return True
            if called and any(c.type == "&" for c in node.children):
                return True
            waiting += node.named_children
        return False

    def _multiplies(self, root: Node) -> bool:
        """Return True if the script starts itself at least twice at once: `$0 & $0 &`.

        One start in the background, or starts with arguments of their own, are daemons.
        """
        waiting = [(root, False)]
        while waiting:
            node, loops = waiting.pop()
            self._trace.budget.spend()
            loops = loops or node.type in ("while_statement", "c_style_for_statement")
            itself = [
                child
                for child in node.named_children
                if child.type == "command" and _STARTS_ITSELF.match(self._script.text(child))
            ]
            apart = any(child.type == "&" for child in node.children)
            if len(itself) > 1 and (apart or node.type == "pipeline"):
                return True
            if itself and apart and loops:
                return True
            waiting += [(child, loops) for child in node.named_children]
        return False

    def _subshell(self, node: Node, io: Io) -> None:
        cwd = self._cwd
        for child in node.named_children:
            self._statement(child, io)
        self._cwd = cwd

    def _pipeline(self, node: Node, io: Io) -> None:
        self._stages([c for c in node.named_children if c.type != "comment"], io)

    def _stages(self, stages: Sequence[Node], io: Io) -> None:
        sources: tuple[str, ...] = io.sources
        feeders = io.feeders
        for n, stage in enumerate(stages):
            text = cache(partial(self._compute_output, stages[:n], io)) if n else io.text
            begun = len(self._trace.calls)
            self._statement(
                stage, Io(sources, text, io.writes if n == len(stages) - 1 else (), (), feeders)
            )
            feeders = (*feeders, *self._trace.calls[begun:])[-_FEEDERS_MAX:]
            sources = (*sources, *(call.name for call in self._trace.calls[begun:]))[-_FEEDERS_MAX:]

    def _compute_output(self, stages: Sequence[Node], io: Io) -> str | None:
        return self._values.pipeline_output(stages, io.fed())

    def _redirected(self, node: Node, io: Io) -> None:
        body = node.child_by_field_name("body")
        later: list[Node] = []
        inner = io
        for redirect in node.named_children:
            if redirect.type == "heredoc_redirect":
                self._within(redirect, inner)
                inner = self._inputs.heredoc(redirect, inner)
                later += [
                    c
                    for c in redirect.named_children
                    if c.type
                    not in ("heredoc_start", "heredoc_body", "heredoc_end", "file_redirect")
                ]
            elif redirect.type in ("herestring_redirect", "file_redirect"):
                self._within(redirect, inner)
                inner = self._inputs.redirect(redirect, inner)
        pipeline = [c for node_ in later if node_.type == "pipeline" for c in node_.named_children]
        if body is not None and (
            pipeline
            or any(
                c.type == "command" and c.prev_sibling is not None and c.prev_sibling.type == "|"
                for c in later
            )
        ):
            self._fed_by_heredoc(body, pipeline or later, inner)
        else:
            if body is not None:
                self._statement(body, inner)
            elif inner.writes:
                self._trace.call((":",), self._place(node), io=inner)
            for statement in later:
                self._statement(statement, NOTHING)

    def _fed_by_heredoc(self, body: Node, stages: Sequence[Node], io: Io) -> None:
        """Follow `cat <<EOF | sh`: the grammar puts the rest of the pipeline below the heredoc."""
        self._statement(body, Io(io.sources, io.text, ()))
        fed = self._values.pipeline_output([body], io.fed())
        self._stages(stages, Io(("cat",), lambda: fed, io.writes))

    def _command(self, node: Node, io: Io) -> None:
        words: list[Node] = []
        set_here: dict[str, Node] = {}
        for child in node.named_children:
            if child.type == "variable_assignment":
                self._within(child, io)
                name, value = child.child_by_field_name("name"), child.child_by_field_name("value")
                if name is not None and value is not None:
                    set_here[self._script.text(name)] = value
            elif child.type in ("herestring_redirect", "file_redirect"):
                self._within(child, io)
                io = self._inputs.redirect(child, io)
            elif child.type != "comment":
                words.append(child)
        if not words:
            return
        if not all(_is_plain(word) for word in words):
            begun = len(self._trace.calls)
            self._within(node, io)
            io = self._inputs.substituted(words, io)
            io = self._inputs.behind_variables(words, io)
            io = replace(io, feeders=(*io.feeders, *self._trace.calls[begun:])[-_FEEDERS_MAX:])
        place = self._place(node)
        if set_here:
            given = self._children.with_variables(
                lambda name: self._values.expand(set_here[name]), set_here
            )
            place = place.with_given(given)
        for argv in self._values.argvs(words):
            self._run(argv or [MAYBE_EMPTY], place, io)

    def _run(self, argv: list[str], place: SourcePosition, io: Io) -> None:
        name = argv[0]
        if name in self._defined.functions:
            self._call(name, argv[1:])
            self._trace.call(argv, place, io=io)
        elif name in self._defined.aliases and len(self._stack) < _INLINED_MAX:
            self._stack.append(name)
            for text in self._defined.aliases.pop(name):
                self._trace.read("bash", " ".join((text, *(_requoted(a) for a in argv[1:]))), place)
            self._stack.pop()
        else:
            run(self._trace, argv, place, io)
        self._remember(argv)
        if name in _READS and io.text is not None:
            self._reads(argv, place.given, io)

    def _reads(self, argv: list[str], given: ProgramInputs, io: Io) -> None:
        """Assign known input to `read x` and `mapfile x`: `while read d; do …; done <<< /`."""
        fed = io.fed()
        if fed is None or not is_known(fed):
            return
        names = [word for word in argv[1:] if word.isidentifier()] or [
            "REPLY" if argv[0] == "read" else "MAPFILE"
        ]
        lines = [line for line in re.split(r"[\n\0]", fed) if line][:_LINES_READ_MAX]
        if argv[0] != "read":
            self._values.variables.give(names[-1], Assigned(None, (SPLIT.join(lines),)))
        else:
            cuts = render_word((list(given.variables("IFS")) or [SPLIT])[0])
            for line in lines:
                for name, piece in zip(names, _cut(line, cuts, len(names) - 1), strict=False):
                    self._values.variables.give(name, Assigned(None, (piece.strip(),)))
        self._values.variables.forget()

    def _remember(self, argv: list[str]) -> None:
        if argv[0] in ("cd", "pushd", "chdir"):
            to = next((w for w in argv[1:] if not w.startswith("-")), None)
            self._cwd = normal(to, self._cwd) if to else None

    def _call(self, name: str, arguments: Sequence[str]) -> None:
        if self._count >= _INLINED_MAX or name in self._stack:
            return
        self._body(name, self._defined.functions[name], tuple(arguments))
        self._inlined.add(name)

    def _body(self, name: str, node: Node, arguments: tuple[str, ...] | None) -> None:
        """Walk a function's body with these arguments; None: the arguments are unknown."""
        body = node.child_by_field_name("body")
        if body is None:
            return
        positional = self._values.variables.positional
        kept = list(positional)
        frame = (
            [VariableFrame(arguments, shifts_in(self._script.text(body)))]
            if arguments is not None
            else []
        )
        positional[:] = [*kept, *frame] if frame else []
        self._values.variables.forget()
        self._count += 1
        self._stack.append(name)
        self._statement(body, NOTHING)
        self._stack.pop()
        positional[:] = kept
        self._values.variables.forget()


def _cut(line: str, at: str, most: int) -> list[str]:
    """Return a line split as `read` does, at the characters of IFS."""
    if not at or not most:
        return [line]
    return (
        line.split(maxsplit=most)
        if at.isspace()
        else re.split(f"[{re.escape(at)}]+", line, maxsplit=most)
    )


def _requoted(word: str) -> str:
    """Return an argument as a word of source again."""
    return (
        "'" + word.replace("'", "'\\''") + "'"
        if re.search(r"[\s\"'$`;&|<>()\\]", word)
        else as_source(word)
    )


def _is_plain(word: Node) -> bool:
    """Return True if the word contains no program."""
    inner = (
        word.named_children[0] if word.type == "command_name" and word.named_child_count else word
    )
    return inner.type in _PLAIN
