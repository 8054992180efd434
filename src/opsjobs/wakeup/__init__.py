"""Celery, all of it: notify a zone's workers, host the engine in a worker, host the scheduler in beat.

A bell carries no work: it only says that there is something to read in PostgreSQL. The processes' sides are
`wakeup.worker.run_worker` and `wakeup.beat.run_scheduler`; whoever only rings does not load Celery's worker.
"""

from __future__ import annotations

from opsjobs.wakeup.notifier import Notifier

__all__ = ["Notifier"]
