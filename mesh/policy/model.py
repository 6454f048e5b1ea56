"""What holds for the calls of one service, every value with where it came from. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mesh.errors import Code
from mesh.policy.filters import Filter
from mesh.policy.patterns import is_whole
from mesh.registry.model import EMPTY, Health, Instance

DEFAULT_TIMEOUT_SECONDS: Final = 5.0
"""Deadline of a call without a stream, as long as nothing else is said."""

DEFAULT: Final = "default"
"""Source of a value that nobody set."""

REPORTED: Final = "default, as the instances report load"
"""Source of the balancing of a service whose servers tell their load."""

CONTRACT: Final = "contract"
"""Source: the service config that is published with the contract."""

MAX_ATTEMPTS: Final = 5
"""gRPC's own limit (gRFC A6)."""

RETRYABLE: Final = (
    Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE
)  # fmt: skip
"""What xDS can say (gRFC A44)."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Attempts of one call, the first included, and the pause between them."""

    attempts: int = 3
    codes: tuple[Code, ...] = (Code.UNAVAILABLE,)
    base_seconds: float = 0.05
    max_seconds: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MethodPolicy:
    """What holds for the calls of one method."""

    timeout_seconds: float | None = None
    """Deadline of a call that brings none of its own; None for none."""

    timeout_source: str = DEFAULT
    retry: Retry | None = None
    """None: only what no server has seen is sent again."""

    retry_source: str = DEFAULT
    unary: bool = False
    """Whether a call is one message each way."""

    idempotent: bool = False
    """Whether the contract lets a call be sent again that a server may have begun."""


@dataclass(frozen=True, order=True)
class Target:
    """Where calls go in the end: a service, or a subset of its instances."""

    service: str
    subset: str = ""

    def __str__(self) -> str:
        """Its name, also that of its cluster in xDS."""
        return f"{self.service}:{self.subset}" if self.subset else self.service


@dataclass(frozen=True, kw_only=True)
class Share:
    """A part of the calls, in hundredths of a percent."""

    weight: int = 10_000
    target: Target


class Comparison(enum.Enum):
    """How the value of a header is looked at."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"
    """RE2, of the whole value."""

    PRESENT = "present"


@dataclass(frozen=True, kw_only=True)
class HeaderMatch:
    """A condition on one header."""

    name: str
    comparison: Comparison
    value: str = ""
    inverted: bool = False
    ignore_case: bool = False


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which calls a route takes: at most one of path, prefix and regex; none of them takes every path."""

    path: str = ""
    prefix: str = ""
    regex: str = ""
    """RE2, of the whole path."""

    conditions: tuple[HeaderMatch, ...] = ()

    def covers(self, path: str) -> bool:
        """Whether a path is taken, the headers aside."""
        if self.path:
            return path == self.path
        if self.regex:
            return is_whole(self.regex, path)
        return path.startswith(self.prefix)

    @property
    def everything(self) -> bool:
        """Whether every call is taken."""
        return not (self.path or self.regex or self.conditions) and self.prefix in ("", "/")


ANYTHING: Final = Match()
"""Every call."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """What holds for the calls that it matches, and where they go. The first that matches counts."""

    match: Match
    method: MethodPolicy
    shares: tuple[Share, ...]
    source: str = DEFAULT


class Balance(enum.Enum):
    """How one instance is chosen for a call."""

    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    RING_HASH = "ring_hash"
    """By headers: the same values meet the same instance, and few move when one leaves."""

    MAGLEV = "maglev"
    """As ring_hash, by another table."""

    LEAST_REQUEST = "least_request"
    """The one with fewer calls in flight of some chosen at random."""

    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"
    """By the load that instances report (gRFC A58)."""


@dataclass(frozen=True, kw_only=True)
class Balancing:
    """How calls are spread over instances."""

    kind: Balance = Balance.ROUND_ROBIN
    hashed: tuple[str, ...] = ()
    """What is hashed, for ring_hash and maglev; by none, each call goes anywhere."""

    min_ring_size: int = 1024
    max_ring_size: int = 4096
    choices: int = 2
    """How many are looked at, for least_request."""

    blackout_seconds: float = 2.0
    """How long an instance must have reported load before that counts; until then it gets as much as the average."""

    weight_expiration_seconds: float = 180.0
    weight_update_seconds: float = 0.5
    """How often weights are worked out anew. gRPC takes nothing below 0.1 s."""

    error_penalty: float = 1.0
    source: str = DEFAULT


@dataclass(frozen=True, kw_only=True)
class FailurePercentage:
    """An instance is out when so many of its calls in an interval failed.

    gRFC A50's defaults (85 %, of 5 hosts with 50 calls each) are for fleets. Here a service of two instances with a
    call or two a second is to lose the bad one as well, so these are smaller, whether it is named in a config or not.
    """

    threshold: int = 60
    """Percent, as the next."""

    enforcement: int = 100
    minimum_hosts: int = 2
    request_volume: int = 10


@dataclass(frozen=True, kw_only=True)
class SuccessRate:
    """An instance is out when its share of good calls is so many thousandths of a standard deviation below the mean.

    The defaults are gRFC A50's: with fewer hosts or calls a deviation says nothing.
    """

    stdev_factor: int = 1900
    enforcement: int = 100
    minimum_hosts: int = 5
    request_volume: int = 100


@dataclass(frozen=True, kw_only=True)
class OutlierDetection:
    """When an instance that fails is left out for a while (gRFC A50)."""

    interval_seconds: float = 5.0
    base_ejection_seconds: float = 10.0
    """Times how often it was out already."""

    max_ejection_seconds: float = 300.0
    max_ejection_percent: int = 50
    failure_percentage: FailurePercentage | None = FailurePercentage()
    success_rate: SuccessRate | None = None
    consecutive_failures: int = 5
    """Envoy only; 0 for never."""

    source: str = DEFAULT


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Circuit breaking: what one client may have open to a target at once; None for no limit."""

    max_requests: int | None = None
    max_connections: int | None = None
    """Envoy only, as is the next."""

    max_pending_requests: int | None = None
    source: str = DEFAULT


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which instances of a service belong to a target."""

    filter: Filter | None = None
    only_passing: bool = False
    source: str = DEFAULT

    def of(self, instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
        """Those of them that belong to it."""
        return tuple(instance for instance in instances if self._has(instance))

    def _has(self, instance: Instance) -> bool:
        if self.only_passing and instance.health is not Health.PASSING:
            return False
        return self.filter is None or self.filter.matches(instance)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """How a target is reached, whoever calls."""

    target: Target
    selection: Selection = Selection()
    connect_timeout_seconds: float = 0.5
    """Envoy only, the TLS handshake included. Whoever waits for one that never ends goes elsewhere after that, all at
    once: it has to be short, so that the retry budget has room for them."""

    connect_timeout_source: str = DEFAULT
    failover: tuple[Target, ...] = ()
    """Where calls go when the target has no instance, in this order."""

    failover_source: str = DEFAULT
    balancing: Balancing = Balancing()
    outlier_detection: OutlierDetection = OutlierDetection()
    limits: Limits = Limits()


@dataclass(frozen=True)
class Policy:
    """What holds for a service."""

    methods: Mapping[str, MethodPolicy] = field(default_factory=lambda: EMPTY)
    """By path, in the contract's order: for calls that no route with conditions on headers takes. Without a contract
    those methods that a service config gives a deadline."""

    fallback: MethodPolicy = MethodPolicy(timeout_seconds=DEFAULT_TIMEOUT_SECONDS)
    """For methods that the contract does not name; see `fallback_streams`."""

    routes: tuple[Route, ...] = ()
    """The first that matches counts; the last one takes every call."""

    destinations: Mapping[str, Destination] = field(default_factory=lambda: EMPTY)
    """The targets of this service by subset; the whole service under an empty name."""

    permissive: str = ""
    """Who says that its instances may be called though they speak no TLS; empty where nobody does."""

    @property
    def fallback_streams(self) -> MethodPolicy:
        """For methods with a stream that the contract does not name: the default deadline is none of theirs."""
        return MethodPolicy() if self.fallback.timeout_source == DEFAULT else self.fallback

    @property
    def targets(self) -> Iterator[Target]:
        """Where its calls may go, failovers of its own targets included."""
        yield from (share.target for route in self.routes for share in route.shares)
        yield from (target for destination in self.destinations.values() for target in destination.failover)
