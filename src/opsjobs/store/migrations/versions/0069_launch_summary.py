"""The line that describes ad-hoc executions."""

from opsjobs.store.migrations import files

revision = "0069"
down_revision = "0068"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
