"""How often totals are counted."""

from __future__ import annotations

import pytest

from services.totals import PAUSE_SECONDS, pause


@pytest.mark.parametrize(("took", "paused"), [(0.0, PAUSE_SECONDS), (0.001, PAUSE_SECONDS), (0.2, 4.0), (5.0, 100.0)])
def test_a_count_that_takes_long_is_made_seldom(took: float, paused: float) -> None:
    assert pause(took) == pytest.approx(paused)
