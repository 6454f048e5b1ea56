"""Runs that come no further are given up."""

from services.migrations import run

revision = "r0004_attempts"
down_revision = "r0003_providers"


def upgrade() -> None:
    """Run the statements beside this file."""
    run(__file__)
