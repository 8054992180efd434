"""A stand-in for a Windows host: it speaks WinRM, and runs its commands in /bin/sh.

It is no Windows: only the protocol is the real one. Foreign clients prove that.
"""
