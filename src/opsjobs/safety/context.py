"""The surroundings in which a text would run, as far as rules may ask about them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings in which a text would run."""

    labels: frozenset[str] = frozenset()
    """Labels of the targets, such as `env=prod`."""
    share_of_targets: float = 0.0
    """The share of all targets that exist, 0 to 1."""
    targets: int = 0
    """The number of targets."""
    become: bool = False
    """True if the action's own `become` runs it as another user."""
