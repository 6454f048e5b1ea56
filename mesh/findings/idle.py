"""What is in force and says something of no call at all, as with a typing error in a name. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from mesh.contract import INFRASTRUCTURE
from mesh.policy import Match, Said, reachable
from mesh.policy.entries import source
from mesh.policy.model import CONTRACT

if TYPE_CHECKING:
    from mesh.rules import Rules

_OF_EVERY_SERVER: Final = tuple(f"/{name}" for name in INFRASTRUCTURE)


def idle(service: str, said: Said, rules: Rules) -> Iterator[str]:
    """What of a service's policy holds for nothing, each as `place: path: what`."""
    yield from _routes(service, rules)
    yield from _names(service, said, rules)
    if not rules.contract(service).services:
        yield from _without_contract(service, said, rules)


def _routes(service: str, rules: Rules) -> Iterator[str]:
    """Routes that match no method. Only where all methods are known that calls for the service may be of."""
    contracts = [rules.contract(name) for name in reachable(service, rules.entries)]
    if not all(contract.services for contract in contracts):
        return
    paths = [path for contract in contracts for path in contract.methods]
    for rule in rules.entries.router(service).rules:
        named = _path(rule.match)
        if not named.startswith(_OF_EVERY_SERVER) and not any(map(rule.match.covers, paths)):
            where = f"{source('service-router', service)}: {rule.where}.Match.HTTP"
            yield f"{where}: {named} matches no method of {service}, so this route takes no call"


def _path(match: Match) -> str:
    return match.path or match.prefix or match.regex


def _names(service: str, said: Said, rules: Rules) -> Iterator[str]:
    """gRPC services that nobody serves and that are called nearly as one of this service's.

    Others may be named, as the file is often that of a whole package.
    """
    served = {name for contract in rules.contracts.values() for name in contract.services}
    for entry in said.own.methods:
        near = get_close_matches(entry.service, rules.contract(service).services, n=1, cutoff=0.8)
        if entry.service and entry.service not in served and near:
            where = f"{CONTRACT}: {entry.where}.service"
            yield f"{where}: nobody serves {entry.service}: did you mean {near[0]}?"


def _without_contract(service: str, said: Said, rules: Rules) -> Iterator[str]:
    """What can hold for no call while nobody knows which methods a service has, and which may be sent again."""
    why = f"{service} publishes no contract (it needs gRPC reflection, or `mesh run --descriptors`), so"
    for config in (said.own, said.config):
        for entry in config.methods:
            if entry.retry:
                yield f"{config.source}: {entry.where}: {why} nothing says what may be sent again, and nothing is"
            if entry.service and not entry.method:
                yield f"{config.source}: {entry.where}: {why} its methods have to be named, or all by {{}}"
    for rule in rules.entries.router(service).rules:
        if rule.attempts or rule.codes:
            where = f"{source('service-router', service)}: {rule.where}.Destination"
            yield f"{where}: {why} nothing says what may be sent again, and nothing is"
