"""PowerShell: what a script of it, or a line that starts it, would do."""

from opsjobs.safety.powershell.script import read, read_line

__all__ = ["read", "read_line"]
