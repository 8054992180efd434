"""All identities that may have the secret of an API key or a service.

Its maker, the maker of that one, and the people behind them.
"""

from opsjobs.store.migrations import files

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    """Apply the SQL file beside this one."""
    files.run(__file__)
