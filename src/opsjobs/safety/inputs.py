"""What a program is given from outside: its arguments, and the variables of its environment, as far as they are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from opsjobs.safety.symbolic_words import LATER, MAYBE_EMPTY, cleared

Lookup = Callable[[str], Sequence[str]]
"""The values that a variable may have; none where nobody here sets it."""


def _nothing(_: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """What a command changes of its environment for what it runs. `sets`: names with values, in their order.

    `cleared`: there is nothing but those; `doubtful`: what was there before may be gone, as with sudo.
    """

    sets: tuple[tuple[str, str], ...] = ()
    cleared: bool = False
    doubtful: bool = False


SAME = EnvironmentChange()


@dataclass(frozen=True, slots=True)
class ProgramInputs:
    """`arguments`: None where nobody knows them; one of them may be a word that is not known. `zero`: the name it is called by.

    `variables` are asked for by name, and worked out only then; `exported` are those that what it runs sees, too (None: the same).
    `shell`: what the shell itself has in which this stands, for what it evaluates; None where that is no shell.
    """

    arguments: tuple[str, ...] | None = None
    zero: str | None = None
    variables: Lookup = _nothing
    exported: Lookup | None = None
    shell: Callable[[], ProgramInputs] | None = None

    def of_children(self) -> Lookup:
        """The variables that go on to what it runs."""
        return self.exported or self.variables

    def called(self, arguments: Sequence[str] | None, zero: str | None = None) -> ProgramInputs:
        """The same environment, with these arguments."""
        return replace(self, arguments=None if arguments is None else tuple(arguments), zero=zero)

    def evaluated(self) -> ProgramInputs:
        """For a text that the shell evaluates itself: eval, trap, source."""
        return self if self.shell is None else self.shell()

    def changed(self, change: EnvironmentChange) -> ProgramInputs:
        """For a command that is run with another environment."""
        if change is SAME:
            return self
        pairs: dict[str, list[str]] = {}
        for name, value in change.sets:
            pairs.setdefault(name, []).append(value)
        return self.with_variables(lambda name: pairs.get(name, ()), pairs, change)

    def with_variables(self, look: Lookup, names: Mapping[str, object], change: EnvironmentChange = SAME) -> ProgramInputs:
        """With these variables before all others."""
        before = self.variables

        def found(name: str) -> Sequence[str]:
            if name in names:
                return look(name)
            values = () if change.cleared else before(name)
            return (*values, MAYBE_EMPTY) if values and change.doubtful else values

        return replace(self, variables=found, exported=None)


NOBODY = ProgramInputs()
"""Nothing is known to be given."""


def of_texts(arguments: Sequence[str] | None, variables: Mapping[str, str], unknown: str = "") -> ProgramInputs:
    """What an action gives a program; where `unknown` stands in a text, it is not known."""

    def marked(text: str) -> str:
        return cleared(text).replace(unknown, LATER) if unknown else cleared(text)

    held = {name: (marked(value),) for name, value in variables.items()}
    return ProgramInputs(
        None if arguments is None else tuple(marked(word) for word in arguments), variables=lambda name: held.get(name, ())
    )
