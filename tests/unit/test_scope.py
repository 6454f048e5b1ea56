"""The first error of a group."""

from __future__ import annotations

import pytest

from mesh.errors import Code, Error
from mesh.scope import first_error

OURS, SYSTEMS, BUG = Error(Code.UNAVAILABLE, "away"), OSError("disk"), ValueError("bug")


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        ([BUG, OURS], OURS),
        ([BUG, SYSTEMS, OURS], SYSTEMS),
        ([ExceptionGroup("", [BUG, ExceptionGroup("", [OURS])])], OURS),
        ([ExceptionGroup("", [BUG]), KeyError()], BUG),
    ],
)
def test_it_is_of_a_preferred_kind_if_there_is_one(errors: list[Exception], first: Exception) -> None:
    assert first_error(ExceptionGroup("", errors), Error, OSError) is first


def test_without_a_preference_it_is_the_first() -> None:
    assert first_error(ExceptionGroup("", [ExceptionGroup("", [SYSTEMS]), OURS])) is SYSTEMS
