"""The labels of executions that were launched before there were rows of them."""

from opsjobs.store.migrations import files

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
