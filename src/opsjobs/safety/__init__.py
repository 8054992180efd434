"""Check from its text what a program would do to its host: a guard rail, not a sandbox.

The reader of each language writes into one Trace (trace.py): the calls, the calls wrapped in them,
and the parts that cannot be read. The rules (rules/*.yaml) are matched against that trace.
docs/concepts/safety-check.md lists what the check cannot see.

Others import only this package and its public modules; the rest is private. The names exported
here load no grammar, no rule and no pydantic.

- `job_inputs`: the texts of a job's actions, each as a question.
- `policy`: the severities that an installation sets.
- `rulebook`: the rules, for listing them.
- `check`: the answer to a question. It loads the grammars, and only the checking process
  (opsjobs.sandbox) imports it.
"""

from __future__ import annotations

from opsjobs.safety.budget import TEXT_BYTES_MAX
from opsjobs.safety.question import Context, ProgramInputs, SafetyQuestion, inputs_from_texts
from opsjobs.safety.trace import excerpt_of

__all__ = [
    "TEXT_BYTES_MAX",
    "Context",
    "ProgramInputs",
    "SafetyQuestion",
    "excerpt_of",
    "inputs_from_texts",
]
