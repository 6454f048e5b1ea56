"""Consul's config entries, read and checked. Pure.

Fields: https://developer.hashicorp.com/consul/docs/connect/config-entries. What a mesh of gRPC cannot do is refused
with its path rather than ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mesh.errors import InvalidConfig
from mesh.policy.entries import KINDS, Defaults, Detour, Entry, Parsed, Resolver, Split, Splitter, source
from mesh.policy.entry_router import GRPC_ONLY, router, unless_default
from mesh.policy.filters import BadFilter, Filter
from mesh.policy.model import Balance, Balancing, Selection
from mesh.policy.patterns import fault_of_header
from mesh.policy.reading import Fields, plain, refuse

_COMMON: Final = "Kind Name Namespace Partition Meta Hash CreateIndex ModifyIndex EnterpriseMeta"
_DATACENTER: Final = "other datacenters are not followed: a sidecar knows the instances of its own, so leave this out"
_ELSEWHERE: Final = "other meshes are not followed: a sidecar knows the instances of its own datacenter"


def parse(raw: Mapping[str, Any]) -> Entry:
    """A config entry of one of `KINDS`. InvalidConfig, with the path of every fault, for a bad one."""
    kind, name = str(raw.get("Kind")), str(raw.get("Name"))
    if kind not in _READERS:
        raise InvalidConfig.of([f"{kind} is not one of {', '.join(KINDS)}"])
    known, read = _READERS[kind]
    faults: list[str] = []
    fields = Fields.of(raw, "", faults, f"{_COMMON} {known}")
    made = read(fields, source(kind, name))
    refuse(faults)
    return Entry(raw, made, tuple(_notes(raw)))


def _notes(raw: Mapping[str, Any]) -> Iterator[str]:
    if raw.get("UpstreamConfig"):
        yield (
            "UpstreamConfig: has no effect, as a sidecar serves all callers of a host alike; limits and outlier"
            " detection belong into mesh/service-config/<called service>"
        )


def _defaults(entry: Fields, origin: str) -> Defaults:
    protocol = entry.text("Protocol")
    if protocol not in ("", "tcp", "http", "http2", "grpc"):
        entry.fault("Protocol", f"{protocol!r} is not one of tcp, http, http2, grpc")
    mode = entry.text("MutualTLSMode")
    if mode not in ("", "strict", "permissive"):
        entry.fault("MutualTLSMode", f"{mode!r} is not one of strict, permissive")
    return Defaults(protocol=protocol, permissive=mode == "permissive")


def _splitter(entry: Fields, origin: str) -> Splitter:
    splits = entry.objects("Splits", "Weight Service ServiceSubset Namespace Partition RequestHeaders ResponseHeaders")
    made = Splitter(splits=tuple(map(_split, splits)))
    total = sum(split.weight for split in made.splits) / 100
    if total != 100:
        entry.fault("Splits", f"the weights are {plain(total)} together, not 100")
    if len({(split.service, split.subset) for split in made.splits}) < len(made.splits):
        entry.fault("Splits", "two of them lead to the same")
    return made


def _split(given: Fields) -> Split:
    given.unsupported(
        Namespace=unless_default(given, "Namespace"), Partition=unless_default(given, "Partition"),
        RequestHeaders=GRPC_ONLY, ResponseHeaders=GRPC_ONLY,
    )  # fmt: skip
    weight = given.number("Weight", 0, most=100)
    return Split(
        weight=round(weight * 100),
        service=given.text("Service"),
        subset=given.text("ServiceSubset"),
        where=given.where,
    )


def _resolver(entry: Fields, origin: str) -> Resolver:
    subsets = {name: _selection(given, origin) for name, given in entry.named("Subsets", "Filter OnlyPassing")}
    failover = entry.named(
        "Failover", "Service ServiceSubset Namespace Datacenters Targets Policy SamenessGroup Partition"
    )
    made = Resolver(
        default_subset=entry.text("DefaultSubset"),
        subsets=subsets,
        redirect=_redirect(entry),
        failover={name: tuple(_failover(given)) for name, given in failover},
        connect_timeout_seconds=entry.go_duration("ConnectTimeout"),
        timeout_seconds=entry.go_duration("RequestTimeout"),
        balancing=_load_balancer(entry, origin),
    )
    _check_subsets(entry, made)
    return made


def _check_subsets(entry: Fields, made: Resolver) -> None:
    for name in made.subsets:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            entry.fault(f"Subsets.{name}", "is no name of a subset: small letters, digits and - within")
    if made.default_subset and made.default_subset not in made.subsets:
        entry.fault("DefaultSubset", f"there is no subset {made.default_subset}")
    for name in made.failover:
        if name != "*" and name not in made.subsets:
            entry.fault(f"Failover.{name}", f"there is no subset {name}")
    if made.redirect and made.failover:
        entry.fault("Redirect", "cannot be combined with Failover: nothing is resolved here then")


def _selection(given: Fields, origin: str) -> Selection:
    text = given.text("Filter")
    try:
        wanted = Filter.parse(text) if text else None
    except BadFilter as error:
        given.fault("Filter", str(error))
        wanted = None
    return Selection(filter=wanted, only_passing=given.flag("OnlyPassing"), source=origin)


def _redirect(entry: Fields) -> Detour | None:
    if not entry.has("Redirect"):
        return None
    given = entry.object("Redirect", "Service ServiceSubset Namespace Partition Datacenter Peer SamenessGroup")
    made = _detour(given)
    if not made.service and not given.value.get("Datacenter"):
        given.fault("Service", "a redirect needs a Service")
    return made


def _failover(given: Fields) -> Iterator[Detour]:
    given.unsupported(Datacenters=_DATACENTER, SamenessGroup=_ELSEWHERE, Policy="is not known here")
    targets = given.objects("Targets", "Service ServiceSubset Namespace Partition Datacenter Peer")
    if given.value.get("Targets"):
        yield from map(_detour, targets)
    elif given.value.get("Service") or given.value.get("ServiceSubset"):
        yield _detour(given)
    elif not given.value.get("Datacenters"):
        given.faults.append(f"{given.where}: one of Service, ServiceSubset and Targets is needed")


def _detour(given: Fields) -> Detour:
    given.unsupported(
        Datacenter=_DATACENTER, Peer=_ELSEWHERE, Namespace=unless_default(given, "Namespace"),
        Partition=unless_default(given, "Partition"),
    )  # fmt: skip
    return Detour(service=given.text("Service"), subset=given.text("ServiceSubset"), where=given.where)


_HASHED: Final = (Balance.RING_HASH, Balance.MAGLEV)


def _load_balancer(entry: Fields, origin: str) -> Balancing | None:
    if not entry.value.get("LoadBalancer"):
        return None
    given = entry.object("LoadBalancer", "Policy RingHashConfig LeastRequestConfig HashPolicies")
    ring = given.object("RingHashConfig", "MinimumRingSize MaximumRingSize")
    least = given.object("LeastRequestConfig", "ChoiceCount")
    allowed = {kind.value: kind for kind in Balance if kind is not Balance.WEIGHTED_ROUND_ROBIN}
    name = given.text("Policy") or "round_robin"
    if name not in allowed:
        given.fault("Policy", f"{name!r} is not one of {', '.join(allowed)}")
    kind = allowed.get(name, Balance.ROUND_ROBIN)
    headers = tuple(_hashed_headers(given))
    if headers and kind not in _HASHED:
        given.fault("HashPolicies", f"{name} hashes nothing: ring_hash and maglev do")
    largest = ring.whole("MaximumRingSize", 0, most=8_388_608)
    smallest = ring.whole("MinimumRingSize", 0, most=8_388_608) or min(1024, largest or 1024)
    if largest and smallest > largest:
        ring.fault("MinimumRingSize", f"{smallest} is more than MaximumRingSize, {largest}")
    return Balancing(
        kind=kind,
        hashed=headers,
        min_ring_size=smallest,
        max_ring_size=largest or max(4096, smallest),
        choices=_choices(least),
        source=origin,
    )


def _choices(given: Fields) -> int:
    chosen = given.whole("ChoiceCount", 0, most=10) or 2
    if chosen == 1:
        given.fault("ChoiceCount", "of one there is nothing to choose: at least 2")
    return chosen


def _hashed_headers(given: Fields) -> Iterator[str]:
    for policy in given.objects("HashPolicies", "Field FieldValue CookieConfig SourceIP Terminal"):
        policy.flag("Terminal")
        name = policy.text("FieldValue").lower()
        if policy.text("Field") != "header":
            policy.fault("Field", "only a header, named by FieldValue, can be hashed")
        elif fault := fault_of_header(name):
            policy.fault("FieldValue", fault)
        else:
            yield name


_DEFAULTS: Final = (
    "Protocol Mode MeshGateway Expose ExternalSNI UpstreamConfig TransparentProxy MutualTLSMode"
    " EnvoyExtensions Destination MaxInboundConnections LocalConnectTimeoutMs LocalRequestTimeoutMs"
    " BalanceInboundConnections RateLimits"
)
_READERS: Final[Mapping[str, tuple[str, Callable[[Fields, str], Parsed]]]] = {
    "service-defaults": (_DEFAULTS, _defaults),
    "service-resolver": (
        "DefaultSubset Subsets Redirect Failover ConnectTimeout RequestTimeout LoadBalancer PrioritizeByLocality",
        _resolver,
    ),
    "service-router": ("Routes", router),
    "service-splitter": ("Splits", _splitter),
}
