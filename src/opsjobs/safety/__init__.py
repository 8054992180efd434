"""What a program would do to the machine that it runs on, judged by its text: a guard rail, no sandbox.

Every interpreter's text is read into one Trace (trace.py): calls, with what is wrapped in them, and what nobody can read. The
rules (rules/*.yaml) are matched against it. docs/safety.md says what this cannot see.

judging.py, which loads the grammars, is imported by the judging process alone (opsjobs.sandbox). What is here loads none.
"""

from __future__ import annotations

from opsjobs.safety.context import Context
from opsjobs.safety.inputs import ProgramInputs, of_texts
from opsjobs.safety.question import SafetyQuestion

__all__ = ["Context", "ProgramInputs", "SafetyQuestion", "of_texts"]
