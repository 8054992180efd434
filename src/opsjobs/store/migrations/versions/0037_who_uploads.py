"""The uploader of bytes without a file, which count for that caller, too.

No file has them yet, or the last one was deleted a moment ago.
"""

from opsjobs.store.migrations import files

revision = "0037"
down_revision = "0036"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
