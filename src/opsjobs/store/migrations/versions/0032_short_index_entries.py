"""Leave selectors out of the index of jobs' targets: they may be longer than an entry."""

from opsjobs.store.migrations import files

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
