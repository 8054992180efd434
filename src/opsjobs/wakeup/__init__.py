"""Wake-ups over Celery: notify a zone's workers, host the engine, host the scheduler.

A wake-up carries no work. It only means that there is something to read in PostgreSQL, so it may
be lost or duplicated. `wakeup.worker.run_worker` and `wakeup.beat.run_scheduler` run the processes;
a process that only notifies does not load Celery's worker.
"""

from __future__ import annotations

from opsjobs.wakeup.notifier import Notifier

__all__ = ["Notifier"]
