"""Who uploads the bytes that no file has yet, or had until a moment ago: they count for that caller, too."""

from opsjobs.store.migrations import files

revision = "0037"
down_revision = "0036"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
