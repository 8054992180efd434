"""OpsConductor's Job Execution Service: PostgreSQL is the ledger, Redis the bell, Celery the ringer, SSH the hands."""

__version__ = "0.1.0"
