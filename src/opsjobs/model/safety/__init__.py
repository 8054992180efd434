"""What a program would do to the machine that it runs on, judged by its text: a guard rail, no sandbox.

Every interpreter's text is read into one Trace (trace.py): calls, with what is wrapped in them, and what nobody can read. The
rules (rules/*.yaml) are matched against it. docs/safety.md says what this cannot see.

judging.py, which loads the grammars, is imported by the judging process alone (opsjobs.judges). What is here loads none.
"""

from __future__ import annotations

from opsjobs.model.safety.context import Context
from opsjobs.model.safety.environment import Given, of_texts
from opsjobs.model.safety.question import Question

__all__ = ["Context", "Given", "Question", "of_texts"]
