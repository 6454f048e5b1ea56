"""The outbox of users and runs."""

from services.migrations import run

revision = "r0002_outbox"
down_revision = "r0001_users"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
