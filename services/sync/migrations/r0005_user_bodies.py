"""Events about users have bodies that are cheap to write."""

from services.migrations import run

revision = "r0005_user_bodies"
down_revision = "r0004_attempts"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
