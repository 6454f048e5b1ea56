"""When a server that lets its callers notice has looked often enough."""

from __future__ import annotations

import pytest

from mesh.backlog import LOOKS, Looks

MANY = 10 * LOOKS


@pytest.mark.parametrize(
    ("came", "waiting", "looks"),
    [
        pytest.param([5, 5], [0, 0], 2, id="no call came between two looks"),
        pytest.param([5, 6, 7, 7], [0, 0, 0, 0], 4, id="callers notice after a while"),
        pytest.param(range(MANY), [0] * MANY, LOOKS + 1, id="callers do not notice"),
        pytest.param([5] * 4, [2, 1, 1, 0], 4, id="what waits is begun"),
        pytest.param([5] * MANY, range(MANY - 1, -1, -1), MANY, id="what waits is begun, and there is much of it"),
        pytest.param([5] * MANY, [1] * MANY, LOOKS + 1, id="what waits is never begun"),
        pytest.param([5, 5], [-1, -1], 2, id="a handler goes on though its caller is gone"),
    ],
)
def test_it_is_enough(came: list[int], waiting: list[int], looks: int) -> None:
    seen = Looks()
    enough = [seen.enough(*each) for each in zip(came, waiting, strict=True)]
    assert enough.index(True) + 1 == looks
