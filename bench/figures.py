"""Figures of many samples, and tables of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that so large a share of them does not exceed; NaN without samples."""
    if not samples:
        return math.nan
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def milliseconds(seconds: float) -> str:
    """As a table shows it."""
    return f"{seconds * 1000:.1f} ms"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns: the first one text, all others to the right."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(_aligned, range(len(row)), row, widths)).rstrip() for row in cells)


def _aligned(column: int, cell: str, width: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)
