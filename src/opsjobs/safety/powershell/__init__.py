"""PowerShell: what a script of it, or a line that starts it, would do."""

from opsjobs.safety.powershell.line import read_line
from opsjobs.safety.powershell.script import read

__all__ = ["read", "read_line"]
