"""The summaries of ad-hoc executions, searched in their index."""

from opsjobs.store.migrations import files

revision = "0071"
down_revision = "0070"


def upgrade() -> None:
    """Build the index."""
    files.run(__file__)
