"""Several providers side by side, and what a run has seen."""

from services.migrations import run

revision = "r0003_providers"
down_revision = "r0002_outbox"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
