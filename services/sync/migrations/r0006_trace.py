"""The trace that a run was asked for in."""

from services.migrations import run

revision = "r0006_trace"
down_revision = "r0005_user_bodies"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
