"""Who works on an order, until when, how often it was tried and when to try it again."""

from services.migrations import run

revision = "r0002_work"
down_revision = "r0001_orders"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
