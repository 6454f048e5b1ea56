"""What is said of names that nobody has, as with a typing error; or too early, so these are warnings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mesh.commands import curl, word
from mesh.findings import warn
from mesh.findings.policies import removal
from mesh.intentions import ANY, PARTS, Intention
from mesh.methods import meant
from mesh.policy import PREFIX, reachable
from meshwright.check.v1.check_service_pb2 import Finding

if TYPE_CHECKING:
    from mesh.intentions import Intentions
    from mesh.rules import Rules


def misnamed(
    rules: Rules, intentions: Intentions | None, registered: Iterable[str], registry: str
) -> Iterator[Finding]:
    """A warning for each service config, config entry and intention about a service that is not registered, and whose
    contract nobody ever published, and for each path in an intention that is of no method. A name that entries lead on
    to other services needs to be neither.
    """
    known = {*registered, *rules.contracts}
    for name, place in _places(rules):
        if not reachable(name, rules.entries) & known:
            text = f"{place} is about {name}, which nobody is or was registered as{meant(name, known)}"
            yield warn("policies", text, f"{removal(place, registry)}  # unless {word(name)} is yet to come")
    for one in intentions.held if intentions else ():
        for name in sorted({one.source, one.destination}.difference(known, (ANY, *PARTS))):
            text = f"the intention {one} is about {name}, which nobody is or was registered as{meant(name, known)}"
            yield warn("identity", text, f"{_removal(one, registry)}  # unless {word(name)} is yet to come")
        for path in _missed(one, rules):
            text = f"{path} in the intention {one} matches no method of {one.destination}, so it decides on no call"
            yield warn("identity", text, _correction(one, registry))


def _places(rules: Rules) -> Iterator[tuple[str, str]]:
    for name in sorted(rules.configs):
        yield name, PREFIX + name
    for kind, name in sorted(rules.entries.held):
        yield name, f"{kind}/{name}"


def _missed(one: Intention, rules: Rules) -> Iterator[str]:
    """Paths in its permissions that are of no method, where the methods are known and the permissions can be kept."""
    methods = tuple(rules.contract(one.destination).methods)
    for match in (permission.match for permission in one.permissions if methods and not one.fault):
        named = match.path or match.prefix or match.regex
        if named and not any(map(match.covers, methods)):
            yield named


def _removal(one: Intention, registry: str) -> str:
    """Takes back this one, and not what else the `service-intentions` entry of its destination says."""
    if one.id:
        return curl(registry, "connect/intentions", one.id, method="DELETE")
    ends = {"source": one.source, "destination": one.destination}
    return curl(registry, "connect/intentions/exact", method="DELETE", **ends)


def _correction(one: Intention, registry: str) -> str:
    show = curl(registry, "config/service-intentions", one.destination)
    return f"{show}  # shows it: correct the path in what it says of {word(one.source)}"
