"""JSON objects read field by field: every fault is noted with its path, and nothing unknown goes unnoticed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.errors import InvalidConfig
from mesh.methods import meant

_PROTO_DURATION = re.compile(r"(\d+(?:\.\d{1,9})?)s")
_GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

SHORTEST_SECONDS, LONGEST_SECONDS = 0.001, 9_000_000_000.0
"""Between what Envoy counts in, and what fits into 64 bits of nanoseconds: beyond them clients refuse a duration."""


def refuse(faults: Iterable[str]) -> None:
    """Raise InvalidConfig with all faults, unless there is none."""
    if found := list(faults):
        raise InvalidConfig.of(found)


def plain(number: float) -> str:
    """A number as people write it, without an exponent."""
    return f"{number:.15g}"


def shown(value: Any) -> str:
    """A value in the words of JSON; text as people quote it."""
    return repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def not_in_force(place: str, fault: str) -> str:
    """What is told of something published that cannot be taken, by whoever tells it."""
    return f"{place} is not in force, and what was last good there holds, if anything was: {fault}"


@dataclass(frozen=True)
class Fields:
    """One object, where it stands, and the list that takes its faults. What is absent or null reads as empty."""

    value: Mapping[str, Any]
    where: str
    faults: list[str]

    @classmethod
    def read(cls, text: str | bytes, faults: list[str], known: str) -> Fields | None:
        """As `of`, of the text of a whole object; None where that is not JSON."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            faults.append(f"not JSON: {error}" if text.strip() else "empty, not JSON")
            return None
        return cls.of(content, "", faults, known)

    @classmethod
    def of(cls, value: Any, where: str, faults: list[str], known: str) -> Fields:
        """An object with no other fields than those known (words); an empty one where it is none."""
        if not isinstance(value, Mapping):
            faults.append(f"{where}: {shown(value)} is not an object".removeprefix(": "))
            return cls({}, where, faults)
        made = cls(value, where, faults)
        lost = sorted(set(value) - set(known.split()))
        faults.extend(f"{made.at(name)}: unknown field{meant(name, known.split())}" for name in lost)
        return made

    def at(self, key: str) -> str:
        """The path of a field."""
        return f"{self.where}.{key}" if self.where else key

    def fault(self, key: str, text: str) -> None:
        """Note that a field is wrong."""
        self.faults.append(f"{self.at(key)}: {text}")

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.value.get(key) is not None

    def text(self, key: str) -> str:
        """A string."""
        found = str(self._typed(key, str, "a string", ""))
        if _is_unicode(found):
            return found
        self.fault(key, f"{found!r} is not Unicode")
        return ""

    def flag(self, key: str) -> bool:
        """True or false."""
        return bool(self._typed(key, bool, "true or false", False))

    def list(self, key: str) -> list[Any]:
        """A list of whatever."""
        return list(self._typed(key, list, "a list", []))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self.list(key)
        for i, one in enumerate(found):
            if not isinstance(one, str):
                self.fault(f"{key}[{i}]", f"{shown(one)} is not a string")
        return tuple(one for one in found if isinstance(one, str))

    def number(self, key: str, default: float, *, least: float = 0, most: float = 2**31) -> float:
        """A number within bounds."""
        value = self.value.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.fault(key, f"{shown(value)} is not a number from {plain(least)} to {plain(most)}")
            return default
        return value

    def whole(self, key: str, default: int, *, least: int = 0, most: int = 2**31) -> int:
        """A whole number within bounds."""
        value = self.number(key, default, least=least, most=most)
        if value != int(value):
            self.fault(key, f"{shown(value)} is not a whole number")
        return int(value)

    def duration(self, key: str) -> float | None:
        """Seconds of a duration as protobuf writes it, such as "1.5s"; None when absent."""
        value = self.value.get(key)
        if value is None:
            return None
        match = _PROTO_DURATION.fullmatch(value) if isinstance(value, str) else None
        if match and SHORTEST_SECONDS <= float(match[1]) <= LONGEST_SECONDS:
            return float(match[1])
        self.fault(key, f'{shown(value)} is not a duration such as "1.5s", of at least a millisecond')
        return None

    def go_duration(self, key: str) -> float | None:
        """Seconds of a duration as Go writes it: "1m30s", or nanoseconds; None when absent or 0."""
        value = self.value.get(key)
        seconds = go_seconds(value)
        if seconds is None or not (seconds == 0 or SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS):
            self.fault(key, f'{shown(value)} is not a duration such as "1m30s" or "250ms", of at least a millisecond')
            return None
        return seconds or None

    def object(self, key: str, known: str) -> Fields:
        """An object with no other fields than those known; an empty one when absent."""
        if not self.has(key):
            return Fields({}, self.at(key), self.faults)
        return Fields.of(self.value[key], self.at(key), self.faults, known)

    def objects(self, key: str, known: str) -> Iterator[Fields]:
        """A list of objects."""
        for i, one in enumerate(self.list(key)):
            yield Fields.of(one, self.at(f"{key}[{i}]"), self.faults, known)

    def named(self, key: str, known: str) -> Iterator[tuple[str, Fields]]:
        """An object of objects, by name."""
        found = self._typed(key, Mapping, "an object", {})
        for name, one in found.items():
            yield name, Fields.of(one, self.at(f"{key}.{name}"), self.faults, known)

    def unsupported(self, **why: str) -> None:
        """Note fields that are set and that this mesh does not have; those with an empty text are fine."""
        for key, text in why.items():
            if text and self.value.get(key):
                self.fault(key, text)

    def _typed(self, key: str, kind: type[Any], what: str, default: Any) -> Any:
        value = self.value.get(key)
        if value is None:
            return default
        if isinstance(value, kind):
            return value
        self.fault(key, f"{shown(value)} is not {what}")
        return default


def _is_unicode(text: str) -> bool:
    """Whether it can be sent: JSON may hold half of a pair of surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def go_seconds(value: Any) -> float | None:
    """Seconds of a duration as Go writes it, or of nanoseconds; None for what is neither, 0 for nothing."""
    if value is None or value == "":
        return 0.0
    if isinstance(value, int) and not isinstance(value, bool):
        return value / 1e9 if abs(value) < 2**63 else None
    if not isinstance(value, str):
        return None
    if value == "0":
        return 0.0
    parts = _GO_DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
