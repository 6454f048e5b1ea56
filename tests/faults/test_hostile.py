"""As tests/integration/services/test_hostile.py, for longer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fixtures.every_service import Every, every, play
from tests.fixtures.services import database_settings, stored, syncing

__all__ = ["database_settings", "every", "stored", "syncing"]

pytestmark = pytest.mark.timeout(300)

EXAMPLES = 700


@settings(
    max_examples=EXAMPLES, phases=[Phase.generate], deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(data=st.data())
async def test_any_request_gets_a_documented_answer(every: Every, data: st.DataObject) -> None:
    await play(every, data.draw(every.calls()))
