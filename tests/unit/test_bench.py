"""Arithmetic of the benchmarks."""

from __future__ import annotations

import math

from bench.echo import METHODS, service_config
from bench.figures import quantile, table


def test_a_quantile_is_a_sample() -> None:
    samples = [3.0, 1.0, 2.0, 4.0]
    assert [quantile(samples, share) for share in (0.0, 0.25, 0.5, 0.51, 1.0)] == [1.0, 1.0, 2.0, 3.0, 4.0]
    assert quantile(list(range(1, 101)), 0.99) == 99
    assert math.isnan(quantile([], 0.5))


def test_a_table_has_straight_columns() -> None:
    assert table(("", "n"), [("a", 1), ("long", 20)]) == "       n\na      1\nlong  20"


def test_names_of_methods_are_their_deadlines() -> None:
    assert '"Hang500"}], "timeout": "0.5s"' in service_config()
    assert "Unary" in METHODS
    assert "Unary" not in service_config()
