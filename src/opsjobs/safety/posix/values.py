"""Compute the meanings of a word of a script.

Quotes are removed; variables and commands that only print are resolved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import islice, product

from tree_sitter import Node

from opsjobs.safety.budget import CHARACTERS_A_STEP, Budget
from opsjobs.safety.constant_folding import ansi_c, compute_output, double
from opsjobs.safety.posix.parsing import Script
from opsjobs.safety.posix.variables import Variables, expanded
from opsjobs.safety.symbolic_words import (
    ANY,
    CLOSE,
    COMMA,
    HOME,
    MAYBE_EMPTY,
    MEANINGS_MAX,
    OPEN,
    SOMETHING,
    SPLIT,
    STAR,
    fields,
    join_parts,
    mark_special,
)

_SPACES = re.compile(r"[ \t\n]+")
_RANGE = re.compile(r"\{(\w+)\.\.(\w+)\}")
_TILDE = re.compile(r"~[\w.-]*(?=/|\Z)")
_WORDS_MAX = 2_000
# Their output is never empty, so a path below it is never below the root.
_NEVER_SILENT = frozenset(
    {
        "mktemp",
        "date",
        "hostname",
        "uname",
        "pwd",
        "whoami",
        "id",
        "nproc",
        "tempfile",
        "uuidgen",
        "readlink",
        "realpath",
        "dirname",
        "basename",
    }
)


class PosixValues:
    """The meanings of words, with the variables of one script."""

    def __init__(self, script: Script, budget: Budget) -> None:
        self._script = script
        self.budget = budget
        self.variables = Variables(self.expand)
        self._kinds: dict[str, Callable[[Node], list[str]]] = {
            "word": lambda node: [self._bare(node)],
            "number": lambda node: [self._script.text(node)],
            "string": self._string,
            "translated_string": lambda node: (
                self.expand(node.named_children[-1]) if node.named_children else [""]
            ),
            "raw_string": lambda node: [self._script.text(node)[1:-1]],
            "ansi_c_string": lambda node: [ansi_c(self._script.text(node)[2:-1])],
            "simple_expansion": lambda node: self._unquoted(self._variable(node)),
            "expansion": lambda node: self._unquoted(self._expansion(node)),
            "command_substitution": lambda node: self._unquoted(self._substituted(node)),
            "process_substitution": lambda _: [SOMETHING],
            "arithmetic_expansion": lambda _: [SOMETHING],
            "concatenation": self._concatenation,
            "command_name": lambda node: (
                self.expand(node.named_children[0])
                if node.named_children
                else [mark_special(self._script.text(node))]
            ),
            "brace_expression": self._range,
            "array": self._array,
            "string_content": lambda node: [double(self._script.text(node))],
        }

    def expand(self, node: Node) -> list[str]:
        """Return the meanings of one word, at most MEANINGS_MAX, with marks for unknown parts."""
        self.budget.spend()
        kind = self._kinds.get(node.type)
        found = kind(node) if kind is not None else [mark_special(self._script.text(node))]
        self.budget.read(sum(map(len, found)))
        return found

    def argvs(self, nodes: Sequence[Node]) -> list[list[str]]:
        """Return the possible command lines, word by word.

        If there are too many, the last one holds the words of all the others.
        """
        meanings, quoted = self._meanings(nodes)
        if all(len(each) == 1 for each in meanings):
            return [_argv([each[0] for each in meanings], quoted)]
        ways = list(islice(product(*meanings), MEANINGS_MAX + 1))
        self.budget.read(sum(len(word) for each in meanings for word in each), len(ways))
        found = [_argv(way, quoted) for way in ways[:MEANINGS_MAX]]
        if len(ways) > MEANINGS_MAX:
            first, *rest = meanings
            marks = [
                quoted[0],
                *(q for q, each in zip(quoted[1:], rest, strict=True) for _ in each),
            ]
            flat = [word for each in rest for word in each]
            found += [_argv([name, *flat], marks) for name in first]
        return found

    def _meanings(self, nodes: Sequence[Node]) -> tuple[list[list[str]], list[bool]]:
        """Return the meanings of each word; a line continuation inside a word joins its parts."""
        meanings: list[list[str]] = []
        quoted: list[bool] = []
        end = -1
        for node in nodes:
            found, is_quoted = self.expand(node), _is_quoted(node)
            if node.start_byte == end + 2 and self._script.between(end, end + 2) == "\\\n":
                meanings[-1] = join_parts((meanings[-1], found))
                quoted[-1] = quoted[-1] or is_quoted
            else:
                meanings.append(found)
                quoted.append(is_quoted)
            end = node.end_byte
        return meanings, quoted

    def pipeline_output(self, nodes: Sequence[Node], fed: str | None) -> str | None:
        """Return the output of pipeline stages, if all of them only transform text."""
        return self._printed_pipeline(nodes, fed)

    # --- kinds of words

    def _bare(self, node: Node) -> str:
        text = self._script.text(node)
        word = mark_special(text)
        if text[:1] == "~":
            return _TILDE.sub(HOME, word, count=1)
        if "=~" in text:
            return word.replace("=~/", f"={HOME}/")
        return word

    def _string(self, node: Node) -> list[str]:
        parts: list[list[str]] = []
        at, end = node.start_byte + 1, node.end_byte - 1
        for child in node.named_children:
            if child.start_byte > at:
                parts.append([double(self._script.between(at, child.start_byte))])
            parts.append(self._quoted(child))
            at = child.end_byte
        if end > at:
            parts.append([double(self._script.between(at, end))])
        return join_parts(parts) if parts else [""]

    def _quoted(self, node: Node) -> list[str]:
        match node.type:
            case "simple_expansion":
                return self._variable(node)
            case "expansion":
                return self._expansion(node)
            case "command_substitution":
                return self._substituted(node)
        return self.expand(node)

    def _unquoted(self, values: list[str]) -> list[str]:
        """Return the values cut at white space, with marks for globs."""
        return [_SPACES.sub(SPLIT, v.replace("*", STAR).replace("?", ANY)) for v in values]

    def _variable(self, node: Node) -> list[str]:
        return self.variables.look_up(self._script.text(node)[1:])

    def _expansion(self, node: Node) -> list[str]:
        words = [
            c
            for c in node.named_children
            if c.type not in ("variable_name", "special_variable_name", "subscript")
        ]
        return expanded(
            self._script.text(node),
            self.variables.look_up,
            lambda: join_parts([self.expand(w) for w in words]) if words else [""],
            self.variables.begins_with_slash,
            self.budget,
        )

    def _substituted(self, node: Node) -> list[str]:
        text = self._printed_by(node.named_children, None)
        if text is not None:
            return [text.rstrip("\n")]
        return [SOMETHING if self._first_name(node) in _NEVER_SILENT else MAYBE_EMPTY]

    def _first_name(self, node: Node) -> str | None:
        last = node.named_children[-1] if node.named_children else None
        if last is not None and last.type == "redirected_statement":
            last = last.child_by_field_name("body")
        name = (
            last.child_by_field_name("name")
            if last is not None and last.type == "command"
            else None
        )
        return self._script.text(name) if name is not None else None

    def _concatenation(self, node: Node) -> list[str]:
        parts = [self.expand(child) for child in node.children]
        return join_parts(parts)

    def _range(self, node: Node) -> list[str]:
        found = _RANGE.fullmatch(self._script.text(node))
        if found is None:
            return [SOMETHING]
        first, last = found[1], found[2]
        if len(first) == len(last) == 1 and not (first.isdigit() and last.isdigit()):
            letters = [
                chr(c) for c in range(min(ord(first), ord(last)), max(ord(first), ord(last)) + 1)
            ][:MEANINGS_MAX]
            return [first] if first == last else [OPEN + COMMA.join(letters) + CLOSE]
        return [first if first == last else SOMETHING]

    def _array(self, node: Node) -> list[str]:
        parts: list[list[str]] = []
        for child in node.named_children:
            parts += [[SPLIT], self.expand(child)] if parts else [self.expand(child)]
        return join_parts(parts) if parts else [""]

    # --- commands that only print

    def _printed_by(self, nodes: Sequence[Node], fed: str | None) -> str | None:
        texts = [self._compute_output(node, fed) for node in nodes if node.type != "comment"]
        known_ = [text for text in texts if text is not None]
        return "".join(known_) if texts and len(known_) == len(texts) else None

    def _compute_output(self, node: Node, fed: str | None) -> str | None:
        self.budget.spend(1 + len(fed or "") // CHARACTERS_A_STEP)
        match node.type:
            case "command":
                return self._printed_command(node, fed)
            case "pipeline":
                return self._printed_pipeline(node.named_children, fed)
            case "redirected_statement":
                return self._printed_redirected(node, fed)
            case "subshell" | "compound_statement" | "list" | "program":
                return self._printed_by(node.named_children, fed)
        return None

    def _printed_command(self, node: Node, fed: str | None) -> str | None:
        herestring = next((c for c in node.named_children if c.type == "herestring_redirect"), None)
        if herestring is not None:
            fed = self.herestring(herestring)
        words = [
            c
            for c in node.named_children
            if c.type not in ("variable_assignment", "herestring_redirect", "file_redirect")
        ]
        ways = self.argvs(words) if words else []
        return compute_output(ways[0], fed) if len(ways) == 1 else None

    def _printed_pipeline(self, stages: Sequence[Node], fed: str | None) -> str | None:
        for stage in stages:
            if stage.type == "comment":
                continue
            fed = self._compute_output(stage, fed)
            if fed is None:
                return None
        return fed

    def _printed_redirected(self, node: Node, fed: str | None) -> str | None:
        body = node.child_by_field_name("body")
        for redirect in (c for c in node.named_children if c.type.endswith("_redirect")):
            if redirect.type == "heredoc_redirect":
                fed = self.heredoc(redirect)
                later = [c for c in redirect.named_children if c.type in ("pipeline", "command")]
                if later:
                    return None
            elif redirect.type == "herestring_redirect":
                fed = self.herestring(redirect)
            elif ">" in self._script.text(redirect) and "/dev/null" not in self._script.text(
                redirect
            ):
                return None
        return self._compute_output(body, fed) if body is not None else None

    def herestring(self, node: Node) -> str:
        """Return the input of `<<<`; an unknown text if there are several meanings."""
        found = join_parts(
            [self.expand(c) for c in node.named_children if c.type != "file_descriptor"]
        )
        return (found[0].replace(SPLIT, " ") if len(found) == 1 else MAYBE_EMPTY) + "\n"

    def heredoc(self, node: Node) -> str | None:
        """Return the input of `<<`; an unknown text if there are several meanings."""
        start = next((c for c in node.named_children if c.type == "heredoc_start"), None)
        body = next((c for c in node.named_children if c.type == "heredoc_body"), None)
        if body is None:
            return ""
        text = self._script.text(body)
        self.budget.read(len(text))
        if start is not None and self._script.text(start)[:1] in "'\"\\":
            return text
        parts: list[list[str]] = []
        at = body.start_byte
        for child in body.named_children:
            if child.type == "heredoc_content":
                continue
            parts += [[double(self._script.between(at, child.start_byte))], self._quoted(child)]
            at = child.end_byte
        found = join_parts([*parts, [double(self._script.between(at, body.end_byte))]])
        return found[0] if len(found) == 1 else MAYBE_EMPTY


def _argv(words: Sequence[str], quoted: Sequence[bool]) -> list[str]:
    return [
        f
        for word, q in zip(words, quoted, strict=True)
        for f in (fields(word) if word or q else ())
    ][:_WORDS_MAX]


def _is_quoted(node: Node) -> bool:
    if node.type != "concatenation":
        return node.type in ("string", "raw_string", "ansi_c_string")
    return any(c.type in ("string", "raw_string") for c in node.children)
