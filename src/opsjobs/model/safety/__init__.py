"""What a program would do to the machine that it runs on, judged by its text: a guard rail, no sandbox.

Every interpreter's text is read into one Trace (trace.py): calls, with what is wrapped in them, and what nobody can read. The
rules (rules/*.yaml) are matched against it. docs/safety.md says what this cannot see.
"""

from __future__ import annotations

from opsjobs.model.safety.environment import Given, of_texts
from opsjobs.model.safety.judging import judge
from opsjobs.model.safety.matching import Context
from opsjobs.model.safety.rulebook import Rule, RuleError, rulebook

__all__ = ["Context", "Given", "Rule", "RuleError", "judge", "of_texts", "rulebook"]
