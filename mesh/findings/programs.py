"""What programs ask of somebody, each by a gauge on its page of metrics. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from mesh.findings import bad
from meshwright.check.v1.check_service_pb2 import Finding

METRIC: Final = "mesh_attention"
"""A gauge: how many there are of `what`, and the command that mends it, `remedy`; 0, or no series, when all is well."""

_OURS: Final = re.compile(rf"{METRIC}[{{\s]")


def programs(pages: Iterable[str]) -> Iterator[Finding]:
    """What is asked, once, however many replicas do: the largest number counts."""
    asked: dict[tuple[str, str], float] = {}
    for what, remedy, number in (one for page in pages for one in _asked(page)):
        asked[what, remedy] = max(number, asked.get((what, remedy), 0.0))
    for (what, remedy), number in asked.items():
        if number > 0:
            yield bad("processes", f"{what}: {number:g}", remedy)


def _asked(page: str) -> Iterator[tuple[str, str, float]]:
    for line in filter(_OURS.match, page.splitlines()):
        with suppress(ValueError, LookupError):  # a program may show anything
            for family in text_string_to_metric_families(line):
                for sample in family.samples:
                    yield sample.labels.get("what", "?"), sample.labels.get("remedy", ""), sample.value
