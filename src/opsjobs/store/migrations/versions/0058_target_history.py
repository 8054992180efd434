"""The runs of a target and the firings of a status, found by an index."""

from opsjobs.store.migrations import files

revision = "0058"
down_revision = "0057"


def upgrade() -> None:
    """Build the indexes."""
    files.run(__file__)
