"""What `mesh check` prints. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from mesh.commands import word
from mesh.findings import GROUPS, bad
from meshwright.check.v1.check_service_pb2 import Finding

_GOOD, _CHOSEN, _BAD = ("\N{CHECK MARK}", "\x1b[32m"), ("!", "\x1b[33m"), ("\N{BALLOT X}", "\x1b[31m")
_PLAIN = "\x1b[0m"
_COMMAND = re.compile(r"'[^']*'|\bmesh (check|down|explain|fault|logs|ps|restart|sidecar|stack|up)\b")


def merged(findings: Iterable[Finding], names: Mapping[str, str]) -> tuple[Finding, ...]:
    """Each once, in the order of the groups; `names` are those of the stack's processes by address."""
    once = {(found.group, found.text): found for found in findings}
    return tuple(_named(found, names) for found in sorted(once.values(), key=_order))


def at(findings: Iterable[Finding], folder: str, finds: Callable[[str], bool]) -> Iterator[Finding]:
    """The same for people who stand elsewhere: commands of `mesh` name the folder, but for those that find it."""

    def named(command: re.Match[str]) -> str:
        lost = command[1] and not finds(command[1])  # what is quoted is a name
        return f"{command[0]} --dir {word(folder)}" if lost else command[0]

    for found in findings:
        remedy = _COMMAND.sub(named, found.remedy)
        yield Finding(group=found.group, passed=found.passed, text=found.text, remedy=remedy, address=found.address)


def _order(found: Finding) -> int:
    return GROUPS.index(found.group) if found.group in GROUPS else len(GROUPS)


def _named(found: Finding, names: Mapping[str, str]) -> Finding:
    if not (name := names.get(found.address)):
        return found
    own = word(name)
    return bad(found.group, found.text, f"mesh restart {own}  # `mesh logs {own}` says why", found.address)


def as_text(findings: Iterable[Finding], *, colour: bool = False) -> str:
    """For people: groups with ticks, exclamation marks for what somebody chose to go without, and crosses."""
    return "\n".join(_lines(findings, colour))


def _lines(findings: Iterable[Finding], colour: bool) -> Iterator[str]:
    group = ""
    for found in findings:
        if found.group != group:
            yield (group := found.group)
        mark, shade = _BAD if not found.passed else _CHOSEN if found.remedy else _GOOD
        yield f"  {shade + mark + _PLAIN if colour else mark} {found.text}"
        if found.remedy:
            yield f"      {found.remedy}"


def as_json(findings: Iterable[Finding]) -> str:
    """For programs."""
    listed = [
        {"group": found.group, "passed": found.passed, "text": found.text, "remedy": found.remedy}
        for found in findings
    ]
    return json.dumps({"passed": all(one["passed"] for one in listed), "findings": listed}, indent=2)
