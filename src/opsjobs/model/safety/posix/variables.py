"""What a shell's variables may hold: every value that the text gives them, in whatever order it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tree_sitter import Node

from opsjobs.model.safety.words import HOME, MAYBE_EMPTY, MEANINGS_MAX, SOMETHING, SPLIT, joined

_SET_BY_THE_SYSTEM = {
    **dict.fromkeys(
        (
            "PWD",
            "OLDPWD",
            "USER",
            "LOGNAME",
            "UID",
            "EUID",
            "HOSTNAME",
            "RANDOM",
            "PATH",
            "$",
            "?",
            "#",
            "PPID",
            "SECONDS",
            "LINENO",
        ),
        SOMETHING,
    ),
    **dict.fromkeys(
        ("BASHPID", "EPOCHSECONDS", "HOSTTYPE", "OSTYPE", "MACHTYPE", "BASH_VERSION", "-", "0", "OPTARG", "REPLY"), SOMETHING
    ),
    "HOME": HOME,
    "IFS": SPLIT,
    "SHELL": "/bin/sh",
    "BASH": "/bin/bash",
    # Set for each run, and never empty.
    **dict.fromkeys(("OPSJOBS_VALUE", "OPSJOBS_TARGET", "OPSJOBS_HOST", "OPSJOBS_JOB", "OPSJOBS_SECRETS"), SOMETHING),
}
_ABSOLUTE = frozenset({"HOME", "PWD", "PATH", "OLDPWD", "SHELL", "BASH"})


@dataclass(frozen=True, slots=True)
class Given:
    """One assignment: its value as a node, or as text; `adds` for `+=`."""

    node: Node | None
    text: Sequence[str] = ()
    adds: bool = False


@dataclass
class Variables:
    """Resolved when they are asked for, each once; what refers to itself is not known.

    `checked`: names that the text tests for being empty before it goes on. `positional`: what $1, $2 … are, where
    that is known; `zero`: what $0 is.
    """

    evaluate: Callable[[Node], list[str]]
    given: dict[str, list[Given]] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    positional: list[tuple[str, ...]] = field(default_factory=list)
    zero: str = SOMETHING
    _found: dict[str, list[str]] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)

    def give(self, name: str, given: Given) -> None:
        """One more value that this variable may have."""
        self.given.setdefault(name, []).append(given)

    def of(self, name: str) -> list[str]:
        """The values that it may have; MAYBE_EMPTY among them where one is not known."""
        if name.isdigit() or name in "@*":
            return self._argument(name)
        if name not in self._found:
            if name in self._asked:
                return [MAYBE_EMPTY]
            self._asked.add(name)
            self._found[name] = self._resolved(name)
            self._asked.discard(name)
        return self._found[name]

    def forget(self) -> None:
        """Work everything out anew: the arguments are others."""
        self._found.clear()

    def _argument(self, name: str) -> list[str]:
        if not self.positional or name == "0":
            return [self.zero if name == "0" else MAYBE_EMPTY]
        words = self.positional[-1]
        if name in "@*":
            return [SPLIT.join(words)]
        return [words[int(name) - 1]] if int(name) <= len(words) else [""]

    def _resolved(self, name: str) -> list[str]:
        assignments = self.given.get(name)
        if not assignments:
            system = _SET_BY_THE_SYSTEM.get(name)
            return [system if system is not None else SOMETHING if name in self.checked else MAYBE_EMPTY]
        found: dict[str, None] = {}
        now: list[str] = [""]
        for given in assignments:
            value = list(given.text) if given.node is None else self.evaluate(given.node)
            now = joined((now, value)) if given.adds else value
            found.update(dict.fromkeys(now))
        return self._settled(name, found)

    def _settled(self, name: str, values: Iterable[str]) -> list[str]:
        """Of several, an empty one is where it began: the variable may be empty, which is no word of its own."""
        found = list(values)
        if len(found) > 1 and "" in found:
            found = [v for v in found if v] + [MAYBE_EMPTY]
        if len(found) > MEANINGS_MAX * 4:
            found = [*found[: MEANINGS_MAX * 4], MAYBE_EMPTY]
        if name in self.checked:
            found = [v.replace(MAYBE_EMPTY, SOMETHING) for v in found]
        return list(dict.fromkeys(found))

    def begins_with_slash(self, name: str) -> bool:
        """Whether its first character is the root of all paths, whoever has set it: `${HOME:0:1}`."""
        return name in _ABSOLUTE and name not in self.given
