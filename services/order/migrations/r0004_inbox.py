"""The inbox of the orders, and why an order was cancelled."""

from services.migrations import run

revision = "r0004_inbox"
down_revision = "r0003_outbox"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
