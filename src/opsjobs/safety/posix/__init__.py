"""Shells of the POSIX family: reads the effects of a script of bash or sh."""

from opsjobs.safety.posix.script import read

__all__ = ["read"]
