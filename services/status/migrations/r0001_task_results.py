"""Task results."""

from services.migrations import run

revision = "r0001_task_results"
down_revision = None


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
