"""When a service leaves the rotation because of its Postgres, and when it comes back."""

from __future__ import annotations

import pytest

from services.readiness import is_ready


@pytest.mark.parametrize(
    ("ready", "answered", "silent_seconds", "expected"),
    [
        (True, True, 0, True),
        (True, False, 30, True),
        (True, False, 31, False),
        (False, False, 31, False),
        (False, False, 1, False),
        (False, True, 0, True),
    ],
)
def test_patience(ready: bool, answered: bool, silent_seconds: float, expected: bool) -> None:
    assert is_ready(ready, answered, silent_seconds, patience_seconds=30) is expected
