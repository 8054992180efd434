"""The tables of the first release; the signature of the empty audit log."""

from alembic import op

from opsjobs.store.audit_chain import anchor
from opsjobs.store.migrations import files

# Numbered after the migrations of development that it replaces, so that their databases are older.
revision = "0073"
down_revision = None


def upgrade() -> None:
    """Create everything, and sign the start of the audit log."""
    files.run(__file__)
    context = op.get_context()
    driver = op.get_bind().connection.driver_connection
    assert context.config is not None
    assert driver is not None
    anchor(driver, context.config.attributes["keys"])
