"""${message}"""

from opsjobs.store.migrations import files

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Apply the SQL files beside this one."""
    files.run(__file__)
