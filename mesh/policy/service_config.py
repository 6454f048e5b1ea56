"""gRPC service configs: beside the contract, and at `mesh/service-config/<service>` in the registry's KV store. Pure.

Form: https://github.com/grpc/grpc/blob/master/doc/service_config.md. Two fields are this mesh's own, in the words of
gRFC A50 and Envoy: `outlierDetection` and `circuitBreakers`. All are described in docs/policy.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mesh.errors import Code
from mesh.policy.model import (
    MAX_ATTEMPTS,
    RETRYABLE,
    Balance,
    Balancing,
    FailurePercentage,
    Limits,
    OutlierDetection,
    Retry,
    SuccessRate,
)
from mesh.policy.patterns import fault_of_header
from mesh.policy.reading import Fields, refuse

PREFIX: Final = "mesh/service-config/"
"""Where service configs are kept in the registry's KV store: this prefix and the name of the service."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name of one element of `methodConfig`; an empty name matches all."""

    where: str
    service: str
    method: str
    timeout_seconds: float | None
    retry: Retry | None

    def rank(self, path: str) -> int:
        """How exactly it names a path: 3 the method, 2 the service, 1 everything, 0 not at all."""
        service, method = path.removeprefix("/").split("/")
        if not self.service:
            return 1
        if self.service != service:
            return 0
        return 2 if not self.method else 3 if self.method == method else 0


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """What one service config says; None where it says nothing."""

    text: str = ""
    source: str = ""
    entries: tuple[Entry, ...] = ()
    balancing: Balancing | None = None
    outlier_detection: OutlierDetection | None = None
    limits: Limits | None = None

    def entry(self, path: str) -> Entry | None:
        """What it says of a method: the most exact name wins."""
        found = max(self.entries, key=lambda entry: entry.rank(path), default=None)
        return found if found and found.rank(path) else None


def parse(text: str, source: str) -> ServiceConfig:
    """A service config; empty for an empty text. InvalidConfig, with the path of every fault, for a bad one."""
    if not text:
        return ServiceConfig(source=source)
    faults: list[str] = []
    made = _parse(text, source, faults)
    refuse(faults)
    return made


def _parse(text: str, source: str, faults: list[str]) -> ServiceConfig:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        faults.append(f"not JSON: {error}")
        return ServiceConfig()
    config = Fields.of(content, "", faults, "methodConfig loadBalancingConfig outlierDetection circuitBreakers")
    elements = config.objects("methodConfig", "name timeout retryPolicy")
    return ServiceConfig(
        text=text,
        source=source,
        entries=tuple(entry for element in elements for entry in _entries(element)),
        balancing=_balancing(config, source),
        outlier_detection=_outlier_detection(config, source),
        limits=_limits(config, source),
    )


def _entries(element: Fields) -> Iterator[Entry]:
    timeout = element.duration("timeout")
    retry = _retry(element)
    for name in element.objects("name", "service method"):
        service, method = name.text("service"), name.text("method")
        if method and not service:
            name.fault("method", "a method needs its service")
        yield Entry(where=name.where, service=service, method=method, timeout_seconds=timeout, retry=retry)


def _retry(element: Fields) -> Retry | None:
    if not element.has("retryPolicy"):
        return None
    given = element.object(
        "retryPolicy", "maxAttempts initialBackoff maxBackoff backoffMultiplier retryableStatusCodes"
    )
    attempts = given.value.get("maxAttempts", 0)
    if isinstance(attempts, bool) or not isinstance(attempts, int) or not 2 <= attempts <= MAX_ATTEMPTS:
        given.fault("maxAttempts", f"{attempts!r} is not a number from 2 to {MAX_ATTEMPTS}")
    codes = tuple(_codes(given.list("retryableStatusCodes"), given))
    if not codes and given.has("retryableStatusCodes"):
        given.fault("retryableStatusCodes", "names no code to retry on")
    return Retry(
        attempts=attempts,
        codes=codes or Retry().codes,
        base_seconds=given.duration("initialBackoff") or Retry().base_seconds,
        max_seconds=given.duration("maxBackoff") or Retry().max_seconds,
    )


def _codes(names: Iterable[Any], given: Fields) -> Iterator[Code]:
    allowed = {code.name: code for code in RETRYABLE}
    for name in names:
        if isinstance(name, str) and name in allowed:
            yield allowed[name]
        else:
            given.fault("retryableStatusCodes", f"{name!r} is not one of {', '.join(allowed)}")


def _balancing(config: Fields, source: str) -> Balancing | None:
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


def _outlier_detection(config: Fields, source: str) -> OutlierDetection | None:
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
        given.fault("maxEjectionTime", f"{longest:g} s are less than baseEjectionTime, {base:g} s")
    return OutlierDetection(
        interval_seconds=given.duration("interval") or default.interval_seconds,
        base_ejection_seconds=base,
        max_ejection_seconds=longest,
        max_ejection_percent=given.whole("maxEjectionPercent", default.max_ejection_percent, most=100),
        failure_percentage=_failure_percentage(given),
        success_rate=_success_rate(given),
        consecutive_failures=given.whole("consecutiveFailures", 0),
        source=source,
    )


_EJECTION = "enforcementPercentage minimumHosts requestVolume"


def _failure_percentage(config: Fields) -> FailurePercentage | None:
    if not config.has("failurePercentageEjection"):
        return None
    given = config.object("failurePercentageEjection", f"threshold {_EJECTION}")
    return FailurePercentage(
        threshold=given.whole("threshold", 85, most=100),
        enforcement=given.whole("enforcementPercentage", 100, most=100),
        minimum_hosts=given.whole("minimumHosts", 5),
        request_volume=given.whole("requestVolume", 50),
    )


def _success_rate(config: Fields) -> SuccessRate | None:
    if not config.has("successRateEjection"):
        return None
    given = config.object("successRateEjection", f"stdevFactor {_EJECTION}")
    return SuccessRate(
        stdev_factor=given.whole("stdevFactor", 1900),
        enforcement=given.whole("enforcementPercentage", 100, most=100),
        minimum_hosts=given.whole("minimumHosts", 5),
        request_volume=given.whole("requestVolume", 100),
    )


def _limits(config: Fields, source: str) -> Limits | None:
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
