"""Where a text would run, as far as a rule may ask about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """Where a text would run. `labels`: of its targets, `env=prod`; `share_of_targets`: of all that there are, 0 to 1; `targets`: how
    many; `become`: whether it runs as somebody else, by the action's own `become`.
    """

    labels: frozenset[str] = frozenset()
    share_of_targets: float = 0.0
    targets: int = 0
    become: bool = False
