"""PowerShell: reads the effects of a script, or of a line that starts one."""

from opsjobs.safety.powershell.script import read, read_line

__all__ = ["read", "read_line"]
