"""Policies and contracts: which of those that were published are not in force, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.commands import curl, words
from mesh.contract import PREFIX as CONTRACTS
from mesh.findings import bad, count, good
from mesh.findings.idle import idle
from mesh.policy import KINDS, Said, not_in_force, placed
from mesh.policy import good as good_of
from meshwright.check.v1.check_service_pb2 import Finding

if TYPE_CHECKING:
    from mesh.rules import Rules

_POLICY = "  # or write it anew: docs/policy.md"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the registry says of all services, and what of it cannot be taken."""

    rules: Rules
    """What is in force."""

    problems: Mapping[str, str]
    """Why the newest value at a key of the KV store, or the newest entry `kind/name`, is not in force."""

    unread: frozenset[str]
    """Prefixes of the KV store and kinds of entries that the registry has not told of."""

    registry: str
    """Its address."""


def policies(published: Published) -> Iterator[Finding]:
    """Service configs and config entries."""
    rules = published.rules
    found = [*_unread(published), *_crosses(published)]
    entries = count(len(rules.entries.held), "config entry", "config entries")
    total = f"{count(len(rules.configs), 'service config')} and {entries}"
    if rules.faults:
        total += f", {count(len(rules.faults), 'fault')} on purpose"
    yield good("policies", total if found else f"{total} in force")
    yield from found


def contracts(published: Published) -> Iterator[Finding]:
    """What services published of themselves."""
    known = published.rules.contracts
    offered = sum(len(contract.services) for contract in known.values())
    yield good("descriptors", f"{count(len(known), 'contract')} with {count(offered, 'gRPC service')}")
    for place, text in published.problems.items():
        if place.startswith(CONTRACTS):
            yield bad("descriptors", not_in_force(place, text), removal(place, published.registry))


def _unread(published: Published) -> Iterator[Finding]:
    if published.unread:
        what = ", ".join(sorted(published.unread))
        yield bad(
            "policies", f"the registry has not told of {what}: what was known last holds, or the defaults",
            "mesh logs sidecar  # says why: a token needs the right to read them",
        )  # fmt: skip


def _crosses(published: Published) -> Iterator[Finding]:
    """One for each place where something cannot be read or contradicts the rest; and what holds for no call."""
    faults: dict[str, list[str]] = {}
    remedies: dict[str, str] = {}
    for service, place, text in _faults(published):
        faults.setdefault(place, []).append(text)
        remedies[place] = _remedy(service, place, published.registry)
    for place, texts in faults.items():
        yield bad("policies", not_in_force(place, "; ".join(dict.fromkeys(texts))), remedies[place])
    for service, place, text in _idle(published):
        if place not in faults:
            yield bad("policies", f"{place}: {text}", _remedy(service, place, published.registry))


def _faults(published: Published) -> Iterator[tuple[str, str, str]]:
    """Service, place and text of each fault. What is read no more is told before what holds in its place."""
    for place, text in published.problems.items():
        if not place.startswith(CONTRACTS):
            yield place.rpartition("/")[2], place, "; ".join(text.splitlines())
    for service in _services(published.rules):
        for fault in _good(service, published.rules)[1]:
            place, text = placed(service, fault)
            if place not in published.problems:
                yield service, place, text


def _idle(published: Published) -> Iterator[tuple[str, str, str]]:
    """Likewise what holds for no call; nothing as long as contracts could not be read."""
    if CONTRACTS in published.unread:
        return
    for service in _services(published.rules):
        for line in idle(service, _good(service, published.rules)[0], published.rules):
            yield service, *placed(service, line)


def _services(rules: Rules) -> list[str]:
    return sorted({*rules.contracts, *rules.configs, *(name for _, name in rules.entries.held)})


def _good(service: str, rules: Rules) -> tuple[Said, tuple[str, ...]]:
    return good_of(service, rules.contract(service), rules.config(service), rules.entries)


def _remedy(service: str, place: str, registry: str) -> str:
    if place.startswith(("mesh/", *KINDS)):
        return removal(place, registry) + _POLICY
    return f"{words(('mesh', 'restart', service))}  # with that corrected: docs/policy.md"


def removal(place: str, registry: str) -> str:
    """The command that takes back what is at a key of the KV store, or the entry `kind/name`."""
    return curl(registry, "kv" if place.startswith("mesh/") else "config", place, method="DELETE")


def edge_objections(texts: Iterable[str]) -> Iterator[Finding]:
    """What the gateway cannot take into its REST API and its reflection."""
    for text in texts:
        remedy = "mesh logs gateway  # since when; change the contract of that service and restart it"
        yield bad("descriptors", f"at the gateway, {text}", remedy)
