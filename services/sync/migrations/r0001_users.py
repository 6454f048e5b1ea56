"""Users and the runs that pull them."""

from services.migrations import run

revision = "r0001_users"
down_revision = None


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
