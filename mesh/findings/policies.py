"""Policies and contracts: which of those that were published are not in force, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.contract import PREFIX as CONTRACTS
from mesh.errors import InvalidConfig
from mesh.findings import bad, count, good
from mesh.policy import compiled
from mesh.policy.model import CONTRACT
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
    found = [*_unread(published), *_refused(published), *_contradictions(published)]
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
            yield bad("descriptors", f"{place} is not in force: {text}", _removal(place, published.registry))


def _unread(published: Published) -> Iterator[Finding]:
    if published.unread:
        what = ", ".join(sorted(published.unread))
        yield bad(
            "policies", f"the registry has not told of {what}: what was known last holds, or the defaults",
            "mesh logs sidecar  # says why: a token needs the right to read them",
        )  # fmt: skip


def _refused(published: Published) -> Iterator[Finding]:
    for place, text in published.problems.items():
        if not place.startswith(CONTRACTS):
            fault = f"{place} is not in force, and stays as it was: {text}"
            yield bad("policies", fault, _removal(place, published.registry) + _POLICY)


def _contradictions(published: Published) -> Iterator[Finding]:
    """What can be read, and cannot hold together with the rest."""
    for service, line in dict.fromkeys(_faults(published.rules)):
        place = line.partition(": ")[0]
        place = CONTRACTS + service if place == CONTRACT else place
        fault = f"the policy of {service} is not in force, and stays as it was: {line}"
        yield bad("policies", fault, _removal(place, published.registry) + _POLICY)


def _faults(rules: Rules) -> Iterator[tuple[str, str]]:
    for name in sorted({*rules.contracts, *rules.configs, *(name for _, name in rules.entries.held)}):
        try:
            compiled(name, rules.contract(name), rules.config(name), rules.entries)
        except InvalidConfig as error:
            yield from ((name, line) for line in error.message.splitlines())


def _removal(place: str, registry: str) -> str:
    """The command that takes back what is at a key of the KV store, or the entry `kind/name`."""
    path = f"/v1/kv/{place}" if place.startswith("mesh/") else f"/v1/config/{place}"
    return f"curl -fsS -X DELETE {registry}{path}"


def edge_objections(texts: Iterable[str]) -> Iterator[Finding]:
    """What the gateway cannot take into its REST API and its reflection."""
    for text in texts:
        remedy = "mesh logs gateway  # since when; change the contract of that service and restart it"
        yield bad("descriptors", f"at the gateway, {text}", remedy)
