"""The limit of open files and connections of a process."""

from __future__ import annotations

import resource

UNLIMITED = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit of descriptors, usually 1,024, to the hard one; return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else UNLIMITED
