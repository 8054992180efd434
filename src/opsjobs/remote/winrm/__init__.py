"""WinRM: WS-Management over HTTP connections that are authenticated and encrypted.

The modules of this package load libraries that few installations need; this one loads none. It has
the owners of shells: the workers that shells on hosts belong to, and those of them that are dead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from uuid import UUID

FindDead = Callable[[Collection[UUID]], Awaitable[Collection[UUID]]]
"""Return those of these workers that the ledger has declared dead. Raises Unavailable."""


class ShellOwners:
    """The worker of this process, and a search for dead ones.

    Shells on hosts are named for the worker that created them, so that others can delete them.

    Only a worker that the ledger knows and has declared dead counts as dead: a shell of another
    installation is never deleted.
    """

    def __init__(self, find_dead: FindDead) -> None:
        self.find_dead = find_dead
        self.identify: Callable[[], UUID | None] = lambda: None
        """Returns the worker that is registered in this process now."""
