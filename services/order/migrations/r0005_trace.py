"""The trace that an order was taken in."""

from services.migrations import run

revision = "r0005_trace"
down_revision = "r0004_inbox"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
