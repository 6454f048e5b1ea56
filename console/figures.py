"""Figures of many calls: how many, how many failed, how long they took. Pure.

Durations go into buckets of fixed bounds, eight to each power of two microseconds, so that figures can be added up and
a quantile out of them is off by 6 % at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

_PER_OCTAVE = 8
_SHIFT = 3
_LONGEST = 1 << 42
"""Microseconds: seven weeks; what took longer counts as that."""


def bucket_of(nanoseconds: int) -> int:
    """Number of the bucket that a duration falls into."""
    value = min(max(nanoseconds // 1_000, 0), _LONGEST)
    if value < _PER_OCTAVE:
        return value
    octave = value.bit_length() - _SHIFT - 1
    return octave * _PER_OCTAVE + (value >> octave)


def bounds(bucket: int) -> tuple[int, int]:
    """First microsecond of a bucket, and the first one after it."""
    if bucket < 2 * _PER_OCTAVE:
        return bucket, bucket + 1
    octave = bucket // _PER_OCTAVE - 1
    first = (bucket - octave * _PER_OCTAVE) << octave
    return first, first + (1 << octave)


@dataclass(eq=False, slots=True)
class Figures:
    """Of the calls of one edge or method within some time."""

    calls: int = 0
    errors: int = 0
    buckets: dict[int, int] = field(default_factory=dict)
    """How many calls fell into each bucket; one that was never timed is in none."""

    def count(self, nanoseconds: int, *, failed: bool) -> None:
        """One more call."""
        self.calls += 1
        self.errors += failed
        bucket = bucket_of(nanoseconds)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def amend(self, *, failed: bool) -> None:
        """The last call failed and was tried once more: what it counts as is how that ended."""
        self.errors = max(0, self.errors - 1) + failed

    def add(self, other: Figures) -> None:
        """Take those of the other in."""
        self.calls += other.calls
        self.errors += other.errors
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    @classmethod
    def sum(cls, parts: Iterable[Figures]) -> Self:
        """All together."""
        total = cls()
        for part in parts:
            total.add(part)
        return total

    @property
    def error_rate(self) -> float:
        """Share of calls that failed, 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0

    def quantile(self, share: float) -> float | None:
        """Milliseconds within which that share of the calls ended; None without calls."""
        rest = share * sum(self.buckets.values())
        for bucket, count in sorted(self.buckets.items()):
            if count >= rest:
                low, high = bounds(bucket)
                return (low + (high - low) * rest / count) / 1_000
            rest -= count
        return None
