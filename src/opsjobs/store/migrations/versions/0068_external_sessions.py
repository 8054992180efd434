"""Sessions of people of an OpenID Connect provider, and their logins in progress."""

from opsjobs.store.migrations import files

revision = "0068"
down_revision = "0067"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
