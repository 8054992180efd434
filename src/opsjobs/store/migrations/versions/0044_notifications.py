"""Tables of notifications: last outcomes, the state of quiet rules, the default."""

from opsjobs.store.migrations import files

revision = "0044"
down_revision = "0043"


def upgrade() -> None:
    """Create the tables."""
    files.run(__file__)
