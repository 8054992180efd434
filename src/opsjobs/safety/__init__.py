"""Judge from its text what a program would do to its machine: a guard rail, no sandbox.

The reader of each language writes into one Trace (trace.py): the calls, the calls wrapped in them,
and the parts that cannot be read. The rules (rules/*.yaml) are matched against that trace.
docs/concepts/safety-check.md lists what this cannot see.

Only the judging process (opsjobs.sandbox) imports judging.py, which loads the grammars. The names
exported here load none.
"""

from __future__ import annotations

from opsjobs.safety.context import Context
from opsjobs.safety.inputs import ProgramInputs, inputs_from_texts
from opsjobs.safety.question import SafetyQuestion

__all__ = ["Context", "ProgramInputs", "SafetyQuestion", "inputs_from_texts"]
