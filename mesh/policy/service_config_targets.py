"""What a gRPC service config says of the targets of calls: balancing, outlier detection and limits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from mesh.policy.model import Balance, Balancing, FailurePercentage, Limits, OutlierDetection, SuccessRate
from mesh.policy.patterns import fault_of_header
from mesh.policy.reading import Fields, plain

E = TypeVar("E", FailurePercentage, SuccessRate)


def balancing(config: Fields, source: str) -> Balancing | None:
    """The first of the policies that is known, as gRPC chooses."""
    choices = config.list("loadBalancingConfig")
    for i, choice in enumerate(choices):
        where = config.at(f"loadBalancingConfig[{i}]")
        if not isinstance(choice, Mapping) or len(choice) != 1:
            config.faults.append(f"{where}: {choice!r} is not an object with the name of one policy")
        elif (name := next(iter(choice))) in _POLICIES:
            known, read = _POLICIES[name]
            return read(Fields.of(choice[name], f"{where}.{name}", config.faults, known), source)
    if choices:
        config.fault("loadBalancingConfig", f"none is one of {', '.join(sorted(_POLICIES))}")
    return None


def _plain(kind: Balance) -> Callable[[Fields, str], Balancing]:
    return lambda given, source: Balancing(kind=kind, source=source)


def _ring_hash(given: Fields, source: str) -> Balancing:
    header = given.text("requestHashHeader")
    if header and (fault := fault_of_header(header)):
        given.fault("requestHashHeader", fault)
    least = given.whole("minRingSize", 1024, least=1, most=8_388_608)
    return Balancing(
        kind=Balance.RING_HASH,
        hashed=(header.lower(),) if header else (),
        min_ring_size=least,
        max_ring_size=given.whole("maxRingSize", max(4096, least), least=least, most=8_388_608),
        source=source,
    )


def _least_request(given: Fields, source: str) -> Balancing:
    choices = given.whole("choiceCount", 2, least=2, most=10)
    return Balancing(kind=Balance.LEAST_REQUEST, choices=choices, source=source)


def _weighted(given: Fields, source: str) -> Balancing:
    default = Balancing()
    return Balancing(
        kind=Balance.WEIGHTED_ROUND_ROBIN,
        blackout_seconds=given.duration("blackoutPeriod") or default.blackout_seconds,
        weight_expiration_seconds=given.duration("weightExpirationPeriod") or default.weight_expiration_seconds,
        weight_update_seconds=given.duration("weightUpdatePeriod") or default.weight_update_seconds,
        error_penalty=given.number("errorUtilizationPenalty", default.error_penalty),
        source=source,
    )


_RING = "minRingSize maxRingSize requestHashHeader"
_POLICIES: Final[Mapping[str, tuple[str, Callable[[Fields, str], Balancing]]]] = {
    "round_robin": ("", _plain(Balance.ROUND_ROBIN)),
    "random": ("", _plain(Balance.RANDOM)),
    "ring_hash": (_RING, _ring_hash),
    "ring_hash_experimental": (_RING, _ring_hash),
    "least_request": ("choiceCount", _least_request),
    "least_request_experimental": ("choiceCount", _least_request),
    "weighted_round_robin": (
        "blackoutPeriod weightExpirationPeriod weightUpdatePeriod errorUtilizationPenalty", _weighted
    ),
}  # fmt: skip


def outlier_detection(config: Fields, source: str) -> OutlierDetection | None:
    """Which instances get no calls for a while; None where nothing is said."""
    if not config.has("outlierDetection"):
        return None
    default = OutlierDetection()
    given = config.object(
        "outlierDetection",
        "interval baseEjectionTime maxEjectionTime maxEjectionPercent successRateEjection failurePercentageEjection"
        " consecutiveFailures",
    )
    base = given.duration("baseEjectionTime") or default.base_ejection_seconds
    longest = given.duration("maxEjectionTime") or max(base, default.max_ejection_seconds)
    if longest < base:
        given.fault("maxEjectionTime", f"{plain(longest)} s are less than baseEjectionTime, {plain(base)} s")
    return OutlierDetection(
        interval_seconds=given.duration("interval") or default.interval_seconds,
        base_ejection_seconds=base,
        max_ejection_seconds=longest,
        max_ejection_percent=given.whole("maxEjectionPercent", default.max_ejection_percent, most=100),
        failure_percentage=_ejection(given, "failurePercentageEjection", FailurePercentage(), "threshold", most=100),
        success_rate=_ejection(given, "successRateEjection", SuccessRate(), "stdev_factor"),
        consecutive_failures=given.whole("consecutiveFailures", 0),
        source=source,
    )


def _ejection(config: Fields, key: str, default: E, measure: str, *, most: int = 2**31) -> E | None:
    """One way to tell who is left out, by a measure of its own and what both have; None where nothing is said."""
    if not config.has(key):
        return None
    word = _MEASURES[measure]
    given = config.object(key, f"{word} enforcementPercentage minimumHosts requestVolume")
    return replace(
        default,
        **{measure: given.whole(word, getattr(default, measure), most=most)},
        enforcement=given.whole("enforcementPercentage", default.enforcement, most=100),
        minimum_hosts=given.whole("minimumHosts", default.minimum_hosts),
        request_volume=given.whole("requestVolume", default.request_volume),
    )


_MEASURES: Final = {"threshold": "threshold", "stdev_factor": "stdevFactor"}


def limits(config: Fields, source: str) -> Limits | None:
    """How much may be open at once; None where nothing is said."""
    if not config.has("circuitBreakers"):
        return None
    given = config.object("circuitBreakers", "maxRequests maxConnections maxPendingRequests")

    def limit(key: str) -> int | None:
        return given.whole(key, 0, least=1) if given.has(key) else None

    return Limits(
        max_requests=limit("maxRequests"),
        max_connections=limit("maxConnections"),
        max_pending_requests=limit("maxPendingRequests"),
        source=source,
    )
