"""Deciders of approvals with person and makers, so that a person counts once."""

from opsjobs.store.migrations import files

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
