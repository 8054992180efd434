"""Credentials that labels of the Target Service name, beside those set here."""

from opsjobs.store.migrations import files

revision = "0052"
down_revision = "0051"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
