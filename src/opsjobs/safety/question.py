"""A question to the safety check: one text, its context, and its inputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from opsjobs.safety.inputs import ProgramInputs, inputs_from_texts


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
