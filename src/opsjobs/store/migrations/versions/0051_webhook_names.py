"""Names of webhooks, which stay with their owners."""

from opsjobs.store.migrations import files

revision = "0051"
down_revision = "0050"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
