"""Signatures of the audit log; additions only.

Rows that were sealed before are signed here, once and for all, as they are found.
"""

from pathlib import Path

from alembic import op

from opsjobs.store.audit_chain import anchor

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Add it all, and sign what there is."""
    context = op.get_context()
    assert context.config is not None
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(Path(__file__).with_suffix(".sql").read_text())
    anchor(driver, context.config.attributes["keys"])
