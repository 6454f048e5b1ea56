"""gRPC service configs: beside the contract, and at `mesh/service-config/<service>` in the registry's KV store. Pure.

Form: https://github.com/grpc/grpc/blob/master/doc/service_config.md. Three fields are this mesh's own, in the words of
gRFC A50, Envoy and Consul: `outlierDetection`, `circuitBreakers` and, in the KV store, `mutualTlsMode`. All are
described in docs/policy.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from mesh.errors import Code
from mesh.policy.model import MAX_ATTEMPTS, RETRYABLE, Balancing, Limits, OutlierDetection, Retry
from mesh.policy.reading import Fields, plain, refuse
from mesh.policy.service_config_targets import balancing, limits, outlier_detection

PREFIX: Final = "mesh/service-config/"
"""Where service configs are kept in the registry's KV store: this prefix and the name of the service."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
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
    methods: tuple[MethodConfig, ...] = ()
    balancing: Balancing | None = None
    outlier_detection: OutlierDetection | None = None
    limits: Limits | None = None
    permissive: bool = False
    """Whether instances that speak no TLS may be called."""

    def method(self, path: str) -> MethodConfig | None:
        """What it says of a method: the most exact name wins."""
        found = max(self.methods, key=lambda method: method.rank(path), default=None)
        return found if found and found.rank(path) else None


NOTHING: Final = ServiceConfig()


def parse(text: str, source: str) -> ServiceConfig:
    """A service config. InvalidConfig, with the path of every fault, for a bad one."""
    faults: list[str] = []
    made = _parse(text, source, faults)
    refuse(faults)
    return made


def _parse(text: str, source: str, faults: list[str]) -> ServiceConfig:
    known = "methodConfig loadBalancingConfig outlierDetection circuitBreakers mutualTlsMode"
    config = Fields.read(text, faults, known)
    if config is None:
        return NOTHING
    elements = config.objects("methodConfig", "name timeout retryPolicy")
    return ServiceConfig(
        text=text,
        source=source,
        methods=_once([method for element in elements for method in _methods(element)], faults),
        balancing=balancing(config, source),
        outlier_detection=outlier_detection(config, source),
        limits=limits(config, source),
        permissive=_permissive(config, source),
    )


def _permissive(config: Fields, source: str) -> bool:
    """What an operator says, in the words of Consul's `MutualTLSMode`; never what a program says of itself."""
    mode = config.text("mutualTlsMode")
    if mode and not source.startswith(PREFIX):
        config.fault("mutualTlsMode", f"is for operators: put it at {PREFIX}<service> in the KV store")
    elif mode not in ("", "strict", "permissive"):
        config.fault("mutualTlsMode", f"{mode!r} is not one of strict, permissive")
    return mode == "permissive"


def _methods(element: Fields) -> Iterator[MethodConfig]:
    timeout = element.duration("timeout")
    retry = _retry(element)
    if element.value.get("name") in (None, []):
        element.fault("name", "names no method, so nothing would hold: [{}] names all")
    for name in element.objects("name", "service method"):
        service, method = name.text("service"), name.text("method")
        if method and not service:
            name.fault("method", "a method needs its service")
        yield MethodConfig(where=name.where, service=service, method=method, timeout_seconds=timeout, retry=retry)


def _once(methods: Iterable[MethodConfig], faults: list[str]) -> tuple[MethodConfig, ...]:
    """The same; a name may be there once only, as of two gRPC would not know which holds."""
    seen: dict[tuple[str, str], MethodConfig] = {}
    for method in methods:
        first = seen.setdefault((method.service, method.method), method)
        if first is not method:
            faults.append(f"{method.where}: the same name as {first.where}")
    return tuple(seen.values())


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
    base, longest = given.duration("initialBackoff"), given.duration("maxBackoff")
    if base and longest and base > longest:
        given.fault("initialBackoff", f"{plain(base)} s are more than maxBackoff, {plain(longest)} s")
    if given.number("backoffMultiplier", 2) == 0:
        given.fault("backoffMultiplier", "0 is not more than 0")
    return Retry(
        attempts=attempts,
        codes=codes or Retry().codes,
        base_seconds=base or Retry().base_seconds,
        max_seconds=longest or max(base or 0, Retry().max_seconds),
    )


def _codes(names: Iterable[Any], given: Fields) -> Iterator[Code]:
    allowed = {code.name: code for code in RETRYABLE}
    for name in names:
        if isinstance(name, str) and name in allowed:
            yield allowed[name]
        else:
            given.fault("retryableStatusCodes", f"{name!r} is not one of {', '.join(allowed)}")
