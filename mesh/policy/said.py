"""What is published about a service besides its methods: which of it can hold, and what holds in its place. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.contract import INFRASTRUCTURE, Contract
from mesh.errors import InvalidConfig
from mesh.methods import meant
from mesh.policy.chain import Chain
from mesh.policy.entries import Entries
from mesh.policy.model import CONTRACT, Target
from mesh.policy.service_config import NOTHING, ServiceConfig, parse

NONE = Entries()


@dataclass(frozen=True)
class Said:
    """The three places that policy comes from, weakest first."""

    own: ServiceConfig = NOTHING
    """Beside the contract."""

    config: ServiceConfig = NOTHING
    """In the registry's KV store."""

    entries: Entries = NONE
    """The config entries that the service's calls follow."""


def good(
    service: str, contract: Contract, config: ServiceConfig, entries: Entries, before: Said | None = None
) -> tuple[Said, tuple[str, ...]]:
    """What holds: of each place what is there now or, if that is bad, what was good there before. And all faults, each
    as `place: path: what`.

    What was good for an earlier contract is safe under a new one: a method that is gone is nobody's, and one that may
    no longer be sent again is not (see `compile`).
    """
    before = before or Said()
    own, unread = _own(contract)
    chain = _walked(service, entries)
    in_own = (*unread, *_misplaced(contract, own))
    in_config = (*_strange(contract, config), *_misplaced(contract, config))
    made = Said(
        own=before.own if in_own else own,
        config=before.config if in_config else config,
        entries=before.entries if chain.faults else Entries(entries.of(frozenset(chain.consulted))),
    )
    return made, tuple(dict.fromkeys((*in_own, *in_config, *chain.faults)))


def consulted(service: str, entries: Entries) -> frozenset[str]:
    """The services whose config entries the policy of a service depends on, itself included."""
    return frozenset(_walked(service, entries).consulted)


def _walked(service: str, entries: Entries) -> Chain:
    """A chain that was followed to all of its ends."""
    chain = Chain(service, entries)
    chain.links()
    for subset in ("", *entries.resolver(service).subsets):
        chain.failover(Target(service, subset))
    return chain


def placed(service: str, fault: str) -> tuple[str, str]:
    """One fault as the place that it is in, for people, and what is wrong there."""
    place, _, text = fault.partition(": ")
    return (f"the service config beside the contract of {service}" if place == CONTRACT else place), text


def _own(contract: Contract) -> tuple[ServiceConfig, tuple[str, ...]]:
    """Nothing for an empty one, as most contracts have nothing beside them."""
    try:
        return parse(contract.service_config, CONTRACT) if contract.service_config else NOTHING, ()
    except InvalidConfig as error:
        return NOTHING, tuple(f"{CONTRACT}: {line}" for line in error.message.splitlines())


def _misplaced(contract: Contract, config: ServiceConfig) -> Iterator[str]:
    """Entries that name a method that the contract does not have, or let one be sent again that may not be."""
    for entry in config.methods:
        method = contract.methods.get(f"/{entry.service}/{entry.method}")
        where = f"{config.source}: {entry.where}"
        if entry.service in contract.services and entry.method and method is None:
            names = (path.rpartition("/")[2] for path in contract.methods if path.startswith(f"/{entry.service}/"))
            yield f"{where}: {entry.service} has no method {entry.method}{meant(entry.method, names)}"
        if entry.retry and method and not method.idempotent:
            yield (
                f"{where}: a retry policy on {entry.service}/{entry.method}, whose contract does not say"
                " NO_SIDE_EFFECTS or IDEMPOTENT"
            )


def _strange(contract: Contract, config: ServiceConfig) -> Iterator[str]:
    """Entries of an operator that name a gRPC service that is not this one's.

    The file beside a contract may: it is often that of a whole package.
    """
    for entry in config.methods if contract.services else ():
        if entry.service and entry.service not in contract.services and not entry.service.startswith(INFRASTRUCTURE):
            known = ", ".join(contract.services)
            yield f"{config.source}: {entry.where}.service: {entry.service} is not one of {known}"
