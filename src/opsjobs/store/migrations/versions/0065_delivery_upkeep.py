"""Times by which rows of deliveries are deleted that nothing needs any more."""

from opsjobs.store.migrations import files

revision = "0065"
down_revision = "0064"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
