"""Shells of the POSIX family: what a script of bash or sh would do."""

from opsjobs.safety.posix.script import read

__all__ = ["read"]
