"""A question to the safety check: one text, its context, and the inputs of its program.

The inputs are its arguments and environment, as far as they are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from opsjobs.safety.symbolic_words import LATER, MAYBE_EMPTY, cleared


@dataclass(frozen=True, slots=True)
class Context:
    """The circumstances in which a text would run."""

    labels: frozenset[str] = frozenset()
    """Labels of the targets, such as `env=prod`."""
    share_of_targets: float = 0.0
    """The share of all targets that exist, 0 to 1."""
    targets: int = 0
    """The number of targets."""
    become: bool = False
    """True if the action's own `become` runs it as another user."""


@dataclass(frozen=True, slots=True)
class SafetyQuestion:
    """Plain values only, so that it can be sent to another process."""

    interpreter: str
    """The name of the interpreter, or its path on the target; `sh` for a command line."""
    text: str
    context: Context
    arguments: tuple[str, ...] | None = None
    """The arguments; None: unknown."""
    variables: tuple[tuple[str, str], ...] = ()
    unknown: str = ""
    """The value of an argument or a variable is unknown wherever this occurs in it."""

    @property
    def given(self) -> ProgramInputs:
        """The arguments and variables, in the form that a reader accepts."""
        return inputs_from_texts(self.arguments, dict(self.variables), self.unknown)

    @property
    def given_characters(self) -> int:
        """The length of all arguments and variables together."""
        words = sum(len(word) + 1 for word in self.arguments or ())
        return words + sum(len(name) + len(value) + 1 for name, value in self.variables)

    @property
    def digest(self) -> bytes:
        """SHA-256 of all fields: equal questions have equal answers."""
        context = self.context
        where = (
            f"{sorted(context.labels)}|{context.share_of_targets:.3f}|{context.targets}"
            f"|{context.become}|{self.unknown}"
        )
        found = hashlib.sha256(f"{self.interpreter}\0{where}\0".encode(errors="replace"))
        found.update(self.text.encode(errors="surrogatepass"))
        found.update(f"\0{self.arguments!r}\0{self.variables!r}".encode(errors="replace"))
        return found.digest()


Lookup = Callable[[str], Sequence[str]]
"""Return the values that a variable may have; none if the text does not set it."""


def _nothing(_: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """The changes that a command makes to the environment of the programs it runs."""

    sets: tuple[tuple[str, str], ...] = ()
    """Names with their new values, in order."""
    cleared: bool = False
    """True if the environment holds only those variables."""
    doubtful: bool = False
    """True if earlier variables may be removed, as with sudo."""


SAME = EnvironmentChange()


@dataclass(frozen=True, slots=True)
class ProgramInputs:
    """The arguments and the environment of a program, as far as they are known."""

    arguments: tuple[str, ...] | None = None
    """The arguments, each of which may be an unknown word; None if they are unknown."""
    zero: str | None = None
    """The name that the program is called by."""
    variables: Lookup = _nothing
    """Looks a variable up by name; the value is computed only then."""
    exported: Lookup | None = None
    """Looks up the variables that programs run from here inherit; None if it is `variables`."""
    shell: Callable[[], ProgramInputs] | None = None
    """Returns the enclosing shell's own inputs, for `eval`; None outside a shell."""

    def child_lookup(self) -> Lookup:
        """Return the lookup of the variables that programs run from here inherit."""
        return self.exported or self.variables

    def with_arguments(
        self, arguments: Sequence[str] | None, zero: str | None = None
    ) -> ProgramInputs:
        """Return the inputs with these arguments and the current environment."""
        return replace(self, arguments=None if arguments is None else tuple(arguments), zero=zero)

    def for_eval(self) -> ProgramInputs:
        """Return the inputs of a text that the shell evaluates itself: eval, trap, source."""
        return self if self.shell is None else self.shell()

    def with_changes(self, change: EnvironmentChange) -> ProgramInputs:
        """Return the inputs of a command that runs with a changed environment."""
        if change is SAME:
            return self
        pairs: dict[str, list[str]] = {}
        for name, value in change.sets:
            pairs.setdefault(name, []).append(value)
        return self.with_variables(lambda name: pairs.get(name, ()), pairs, change)

    def with_variables(
        self, look: Lookup, names: Mapping[str, object], change: EnvironmentChange = SAME
    ) -> ProgramInputs:
        """Return the inputs with these variables, which take precedence over all others."""
        before = self.variables

        def look_up(name: str) -> Sequence[str]:
            if name in names:
                return look(name)
            values = () if change.cleared else before(name)
            return (*values, MAYBE_EMPTY) if values and change.doubtful else values

        return replace(self, variables=look_up, exported=None)


UNKNOWN_INPUTS = ProgramInputs()
"""The inputs of a program about which nothing is known."""


def inputs_from_texts(
    arguments: Sequence[str] | None, variables: Mapping[str, str], unknown: str = ""
) -> ProgramInputs:
    """Return the inputs that an action passes to a program.

    A value is unknown wherever `unknown` occurs in it.
    """

    def mark(text: str) -> str:
        return cleared(text).replace(unknown, LATER) if unknown else cleared(text)

    held = {name: (mark(value),) for name, value in variables.items()}
    return ProgramInputs(
        None if arguments is None else tuple(mark(word) for word in arguments),
        variables=lambda name: held.get(name, ()),
    )
