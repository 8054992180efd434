"""A shell script walked from top to bottom: every command that it may run, in whatever branch, with what feeds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

from tree_sitter import Node

from opsjobs.model.safety.environment import Given
from opsjobs.model.safety.paths import normal
from opsjobs.model.safety.posix.parsing import Script
from opsjobs.model.safety.posix.values import Values
from opsjobs.model.safety.posix.variables import Assigned, Frame, shifts_in
from opsjobs.model.safety.running import run
from opsjobs.model.safety.trace import NOTHING, Io, Place, Trace, excerpt_of
from opsjobs.model.safety.words import MAYBE_EMPTY, SPLIT, as_source, known

NESTING_MAX = 150
_INLINED_MAX = 32
ITSELF = "this-script"
_DECLARED_MAX = 20
_ALL = "*"
"""As a name: every variable is exported."""
_WRITES = {">": "write", ">|": "write", "&>": "write", ">>": "append", "&>>": "append", "<>": "write", ">&": "write"}
_PLAIN = frozenset({"word", "number", "raw_string", "simple_expansion"})
_PRELOADS = frozenset({"LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "PROMPT_COMMAND", "PERL5OPT", "PYTHONSTARTUP"})
_TESTED = re.compile(r"\$\{?([A-Za-z_]\w*)")


def read(trace: Trace, text: str, place: Place) -> None:
    """Write what this script would do into the trace."""
    Walk(trace, Script(text, trace.budget), place).whole()


class Walk:
    """One script. What it defines is collected first: an assignment counts wherever it stands."""

    def __init__(self, trace: Trace, script: Script, place: Place) -> None:
        self._trace = trace
        self._script = script
        self._outer = place
        self._cwd = place.cwd
        self._values = Values(script, trace.budget)
        self._exports: set[str] = set()
        self._children = Given(variables=self._exported, shell=self._own)
        variables = self._values.variables
        variables.outer = place.given.variables
        if place.given.arguments is not None:
            variables.positional.append(Frame(place.given.arguments, shifts_in(script.text(script.root))))
        if place.given.zero is not None:
            variables.zero = place.given.zero
        elif place.depth <= 1:  # within another program its words may give it any name: `sh -c '$0 -rf /' rm`
            variables.zero = ITSELF
        self._functions: dict[str, Node] = {}
        self._aliases: dict[str, list[str]] = {}
        self._inlined: set[str] = set()
        self._stack: list[str] = []
        self._count = 0
        self._nesting = 0
        self._kinds: dict[str, Callable[[Node, Io], None]] = {
            "command": self._command,
            "pipeline": self._pipeline,
            "redirected_statement": self._redirected,
            "function_definition": self._defined,
            "subshell": self._subshell,
            "declaration_command": self._declared,
            "unset_command": self._declared,
            "variable_assignment": self._within,
            "comment": lambda _, __: None,
            "heredoc_body": self._within,
        }

    def whole(self) -> None:
        """Everything: definitions, then commands, then the functions that nobody calls."""
        for fault in self._script.faults():
            self._trace.event("unreadable", self._place(fault))
            break
        self._collect(self._script.root)
        self._statement(self._script.root, NOTHING)
        for name, node in self._functions.items():
            if name not in self._inlined:
                self._body(name, node, None)

    # --- what it defines

    def _collect(self, root: Node) -> None:
        collectors: dict[str, Callable[[Node], None]] = {
            "variable_assignment": self._assigned,
            "for_statement": self._looped,
            "select_statement": self._looped,
            "function_definition": self._function,
            "command": self._defines,
            "test_command": self._tested,
            "declaration_command": self._declares,
        }
        waiting = [root]
        while waiting:
            node = waiting.pop()
            collect = collectors.get(node.type)
            if collect is not None:
                collect(node)
            if node.named_child_count:
                children = node.named_children
                self._trace.budget.spend(len(children))
                waiting += reversed(children)

    def _function(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        if name is not None:
            self._functions[self._script.text(name)] = node

    def _tested(self, node: Node) -> None:
        self._values.variables.checked.update(_TESTED.findall(self._script.text(node)))

    def _assigned(self, node: Node) -> None:
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is None:
            return
        plain = self._script.text(name)
        if plain in _PRELOADS:
            self._trace.event("preload", self._place(node))
        adds = any(c.type == "+=" for c in node.children)
        if name.type == "subscript":
            self._values.variables.give(plain.partition("[")[0], Assigned(None, (MAYBE_EMPTY,)))
        else:
            self._values.variables.give(plain, Assigned(value, ("",), adds))

    def _declares(self, node: Node) -> None:
        """`export X`, `declare -x X`, and `declare -n X=Y`, by which X is another name of Y."""
        words = self._script.text(node).split(maxsplit=_DECLARED_MAX)
        letters = "".join(word for word in words[1:] if word[:1] == "-")
        if words[0] == "export" or "x" in letters:
            self._exports.update(word.partition("=")[0] for word in words[1:] if word[:1] != "-")
        if "n" in letters and words[0] != "export":
            for name, _, of in (word.partition("=") for word in words[1:]):
                self._values.variables.refer(name, of.strip("\"'"))

    def _looped(self, node: Node) -> None:
        variable = node.child_by_field_name("variable")
        if variable is None:
            return
        name = self._script.text(variable)
        values = node.children_by_field_name("value")
        if not values:
            self._values.variables.give(name, Assigned(None, (MAYBE_EMPTY,)))
        for value in values:
            self._values.variables.give(name, Assigned(value))

    def _defines(self, node: Node) -> None:
        """`alias`, `read`, `set --`, `mapfile`, `printf -v`: commands that give names a meaning."""
        name = node.child_by_field_name("name")
        called = self._script.text(name) if name is not None else ""
        if called not in ("alias", "read", "mapfile", "readarray", "printf", "set", "getopts", "let"):
            return
        words = self._values.argvs([c for c in node.named_children if c.type not in ("herestring_redirect", "file_redirect")])[0]
        if called == "alias":
            for word in words[1:]:
                key, equals, value = word.partition("=")
                if equals:
                    self._aliases.setdefault(key, []).append(value)
        elif called == "set":
            if "--" in words:
                shifts = shifts_in(self._script.text(self._script.root))
                self._values.variables.positional.append(Frame(tuple(words[words.index("--") + 1 :]), shifts))
            elif words[1:2] == ["-a"] or words[1:3] == ["-o", "allexport"]:
                self._exports.add(_ALL)
        elif called == "printf":
            if words[1:2] == ["-v"] and len(words) > 3:
                self._values.variables.give(words[2], Assigned(None, tuple(self._formatted(words[3:]))))
        else:
            fed = next((c for c in node.named_children if c.type == "herestring_redirect"), None)
            value = self._values.herestring(fed).rstrip("\n") if fed is not None and called == "read" else MAYBE_EMPTY
            for word in (w for w in words[1:] if w.isidentifier()):
                self._values.variables.give(word, Assigned(None, (value, *value.split()) if known(value) else (value,)))

    @staticmethod
    def _formatted(words: Sequence[str]) -> Iterator[str]:
        text = words[0]
        for word in words[1:]:
            text = text.replace("%s", word, 1)
        yield text if "%" not in text else MAYBE_EMPTY

    # --- what it does

    def _place(self, node: Node) -> Place:
        excerpt = self._outer.excerpt or excerpt_of(self._script.written(node))
        return Place(excerpt, self._outer.depth, self._cwd, self._children)

    def _exported(self, name: str) -> Sequence[str]:
        """What a program that is run here finds of this name in its environment."""
        outer = self._outer.given.of_children()(name)
        if name not in self._values.variables.given:
            return outer
        return self._values.variables.of(name) if outer or name in self._exports or _ALL in self._exports else ()

    def _all(self, name: str) -> Sequence[str]:
        variables = self._values.variables
        return variables.of(name) if name in variables.given else self._outer.given.variables(name)

    def _own(self) -> Given:
        """What this shell has itself, for what it evaluates."""
        frames = self._values.variables.positional
        return Given(frames[-1].words if frames else None, self._values.variables.zero, self._all, self._exported)

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
        """Programs in the words of something: `$(…)`, `<(…)`."""
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
        self._trace.call(self._script.text(node).split(maxsplit=_DECLARED_MAX), self._place(node), io=io)

    def _defined(self, node: Node, _: Io) -> None:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None and self._calls_itself(self._script.text(name), body):
            self._trace.event("fork_bomb", self._place(node))

    def _calls_itself(self, name: str, body: Node) -> bool:
        """Twice at once, or once in the background: that is what a fork bomb does."""
        waiting = [body]
        while waiting:
            node = waiting.pop()
            self._trace.budget.spend()
            called = [c for c in node.named_children if c.type == "command" and self._script.text(c).split()[:1] == [name]]
            if node.type == "pipeline" and len(called) > 1:
                return True
            if called and any(c.type == "&" for c in node.children):
                return True
            waiting += node.named_children
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
        for n, stage in enumerate(stages):
            text = cache(partial(self._printed, stages[:n], io)) if n else io.text
            begun = len(self._trace.calls)
            self._statement(stage, Io(sources, text, io.writes if n == len(stages) - 1 else ()))
            sources = (*sources, *(call.name for call in self._trace.calls[begun:]))[-64:]

    def _printed(self, stages: Sequence[Node], io: Io) -> str | None:
        return self._values.printed(stages, io.fed())

    def _redirected(self, node: Node, io: Io) -> None:
        body = node.child_by_field_name("body")
        later: list[Node] = []
        inner = io
        for redirect in node.named_children:
            if redirect.type == "heredoc_redirect":
                inner = self._heredoc(redirect, inner)
                later += [
                    c
                    for c in redirect.named_children
                    if c.type not in ("heredoc_start", "heredoc_body", "heredoc_end", "file_redirect")
                ]
            elif redirect.type in ("herestring_redirect", "file_redirect"):
                inner = self._redirect(redirect, inner)
        pipeline = [c for node_ in later if node_.type == "pipeline" for c in node_.named_children]
        if body is not None and (
            pipeline or any(c.type == "command" and c.prev_sibling is not None and c.prev_sibling.type == "|" for c in later)
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
        """`cat <<EOF | sh`: the grammar hangs what follows below the heredoc."""
        self._statement(body, Io(io.sources, io.text, ()))
        fed = self._values.printed([body], io.fed())
        self._stages(stages, Io(("cat",), lambda: fed, io.writes))

    def _heredoc(self, node: Node, io: Io) -> Io:
        self._within(node, io)
        text = self._values.heredoc(node)
        writes = io.writes
        for child in node.named_children:
            if child.type == "file_redirect":
                writes = self._redirect(child, Io(writes=writes)).writes
        return Io(io.sources, lambda: text, writes, io.reads)

    def _redirect(self, node: Node, io: Io) -> Io:
        self._within(node, io)
        if node.type == "herestring_redirect":
            told = self._values.herestring(node)
            return Io((*io.sources, *self._names_in(node)), lambda: told, io.writes, io.reads)
        operator = next((c.type for c in node.children if not c.is_named), "")
        destination = node.child_by_field_name("destination")
        if destination is None:
            return io
        paths = [f for word in self._values.of(destination) for f in word.split(SPLIT)]
        if operator == "<":
            sources = tuple(self._names_in(node))
            text = self._values.printed(destination.named_children, None) if destination.type == "process_substitution" else None
            fed = (lambda: text) if text is not None else io.text
            return Io((*io.sources, *sources), fed, io.writes, () if sources else (*io.reads, *paths))
        if operator in _WRITES and destination.type != "number":
            return Io(io.sources, io.text, (*io.writes, *((_WRITES[operator], p) for p in paths)), io.reads)
        return io

    def _names_in(self, node: Node) -> list[str]:
        """The names of the commands below a node: what feeds it."""
        found: list[str] = []
        waiting = list(node.named_children)
        while waiting:
            child = waiting.pop()
            if child.type == "command" and (name := child.child_by_field_name("name")) is not None:
                found += [normal(n).rpartition("/")[2] for n in self._values.of(name)]
            waiting += child.named_children
        return found

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
                io = self._redirect(child, io)
            elif child.type != "comment":
                words.append(child)
        if not words:
            return
        if not all(_is_plain(word) for word in words):
            self._within(node, io)
            io = self._substituted_input(words, io)
        place = self._place(node)
        if set_here:
            given = self._children.with_variables(lambda name: self._values.of(set_here[name]), set_here)
            place = place.with_given(given)
        for argv in self._values.argvs(words):
            self._run(argv or [MAYBE_EMPTY], place, io)

    def _substituted_input(self, words: Sequence[Node], io: Io) -> Io:
        """`sh <(…)`, `eval "$(…)"`: what is printed there is what is read here."""
        inner = [
            w
            for w in words[1:]
            if w.type == "process_substitution" or "$(" in self._script.text(w) or "`" in self._script.text(w)
        ]
        if not inner:
            return io
        names = tuple(name for word in inner for name in self._names_in(word))
        text = io.text
        if len(inner) == 1 and inner[0].type == "process_substitution" and inner[0].children[0].type == "<(":
            said = self._values.printed(inner[0].named_children, None)
            text = (lambda: said) if said is not None else text
        return Io((*io.sources, *names), text, io.writes, io.reads)

    def _run(self, argv: list[str], place: Place, io: Io) -> None:
        name = argv[0]
        if name in self._functions:
            self._call(name, argv[1:])
            self._trace.call(argv, place, io=io)
        elif name in self._aliases and len(self._stack) < _INLINED_MAX:
            self._stack.append(name)
            for text in self._aliases.pop(name):
                self._trace.read("bash", " ".join((text, *(_requoted(a) for a in argv[1:]))), place)
            self._stack.pop()
        else:
            run(self._trace, argv, place, io)
        self._remember(argv)

    def _remember(self, argv: list[str]) -> None:
        if argv[0] in ("cd", "pushd", "chdir"):
            to = next((w for w in argv[1:] if not w.startswith("-")), None)
            self._cwd = normal(to, self._cwd) if to else None

    def _call(self, name: str, arguments: Sequence[str]) -> None:
        if self._count >= _INLINED_MAX or name in self._stack:
            return
        self._body(name, self._functions[name], tuple(arguments))
        self._inlined.add(name)

    def _body(self, name: str, node: Node, arguments: tuple[str, ...] | None) -> None:
        """A function's body, with these arguments; None: with whatever it may be given."""
        body = node.child_by_field_name("body")
        if body is None:
            return
        positional = self._values.variables.positional
        kept = list(positional)
        frame = [Frame(arguments, shifts_in(self._script.text(body)))] if arguments is not None else []
        positional[:] = [*kept, *frame] if frame else []
        self._values.variables.forget()
        self._count += 1
        self._stack.append(name)
        self._statement(body, NOTHING)
        self._stack.pop()
        positional[:] = kept
        self._values.variables.forget()


def _requoted(word: str) -> str:
    """An argument as a word of source again."""
    return "'" + word.replace("'", "'\\''") + "'" if re.search(r"[\s\"'$`;&|<>()\\]", word) else as_source(word)


def _is_plain(word: Node) -> bool:
    """Whether there is no program in it."""
    inner = word.named_children[0] if word.type == "command_name" and word.named_child_count else word
    return inner.type in _PLAIN
