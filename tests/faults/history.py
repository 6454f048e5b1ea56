"""What a history of changes and effects must look like, whoever was killed meanwhile. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Change = tuple[str, int]
"""What was changed, and the version it has since."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is wrong; nothing is when all are empty."""

    lost: frozenset[Change]
    """Committed, and without effect."""
    repeated: frozenset[Change]
    """With more than one effect."""
    invented: frozenset[Change]
    """With an effect, and never committed."""
    stale: frozenset[Change]
    """The last version of what has a copy with another one."""


CLEAN = Verdict(lost=frozenset(), repeated=frozenset(), invented=frozenset(), stale=frozenset())


def judge(committed: Iterable[Change], effects: Iterable[Change], copies: Mapping[str, int]) -> Verdict:
    """Compare what was committed with what came of it; `copies` are versions by subject."""
    changes, counts = frozenset(committed), Counter(effects)
    last: dict[str, int] = {}
    for subject, version in changes:
        last[subject] = max(version, last.get(subject, 0))
    return Verdict(
        lost=changes - counts.keys(),
        repeated=frozenset(change for change, count in counts.items() if count > 1),
        invented=frozenset(counts.keys() - changes),
        stale=frozenset(change for change in last.items() if copies.get(change[0], change[1]) != change[1]),
    )
