"""Who decided an approval, with person and makers, so that one person is not counted twice."""

from opsjobs.store.migrations import files

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
