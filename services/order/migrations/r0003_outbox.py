"""The outbox of the orders."""

from services.migrations import run

revision = "r0003_outbox"
down_revision = "r0002_work"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
