"""How many files and connections a process may have open."""

from __future__ import annotations

import resource

UNLIMITED = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one, and return it: the usual soft limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else UNLIMITED
