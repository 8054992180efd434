"""Shells of the POSIX family: reads the effects of a script of bash or sh."""

from opsjobs.safety.posix.parsing import beginnings
from opsjobs.safety.posix.script import read, read_beginning

__all__ = ["beginnings", "read", "read_beginning"]
