"""The sessions of a person of the OpenID Connect provider, found by an index."""

from opsjobs.store.migrations import files

revision = "0072"
down_revision = "0071"


def upgrade() -> None:
    """Build the index."""
    files.run(__file__)
