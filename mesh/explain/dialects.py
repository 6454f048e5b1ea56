"""What each kind of client does with a policy, and what of it cannot be done or seen there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from mesh.explain.targets import destination_of
from mesh.policy import Balance, Destination, Policy, Route, Target
from mesh.xds.dialect import CORE, ENVOY, GO, GO_1_72, JAVA, NODE, Dialect, warning
from mesh.xds.parts import duration
from mesh.xds.resources import Peers
from meshwright.sidecar.v1 import explanation_pb2 as pb

_OWN: Final = "mesh.channel"
_CLIENTS: Final = ((_OWN, CORE), ("bare C-core", CORE), *((d.name, d) for d in (GO, GO_1_72, JAVA, NODE, ENVOY)))


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What is asked about."""

    path: str
    """Empty for methods that the contract does not name."""

    policy: Policy
    routes: tuple[Route, ...]
    destinations: tuple[Destination, ...]

    @property
    def plain(self) -> Route:
        """The route of a call without any header that a route looks at."""
        return next(r for r in self.routes if not r.match.conditions and (self.path or r.match.everything))

    @property
    def told_seconds(self) -> float | None:
        """The deadline that the sidecar tells `mesh.channel`."""
        return self.policy.methods.get(self.path, self.policy.fallback).timeout_seconds


def dialects(
    path: str, routes: tuple[Route, ...], targets: Iterable[Target], policy: Policy, peers: Peers
) -> Iterator[pb.Dialect]:
    """Each kind of client; those of one language by version only where that makes a difference."""
    found = tuple(d for target in targets if (d := destination_of(target, peers)))
    call = _Call(path=path, policy=policy, routes=routes, destinations=found)
    for name, dialect in _CLIENTS:
        if dialect is not GO_1_72 or _balancing(call, GO_1_72) != _balancing(call, GO):
            yield _dialect(name, dialect, call)


def _dialect(name: str, dialect: Dialect, call: _Call) -> pb.Dialect:
    retry = call.plain.method.retry
    made = pb.Dialect(
        name=name,
        attempts=retry.attempts if retry else 1,
        balancing=_balancing(call, dialect),
        notes=[*_of_deadline(name, dialect, call), *_of_retry(dialect, call), *_of_targets(dialect, call)],
    )
    taken = call.plain.method.timeout_seconds if dialect.method_timeouts else None
    seconds = call.told_seconds if name == _OWN else taken
    if seconds is not None:
        made.timeout.CopyFrom(duration(seconds))
    return made


def _balancing(call: _Call, dialect: Dialect) -> list[str]:
    return [f"{d.target}: {dialect.nearest(d.balancing.kind).value}" for d in call.destinations]


def _of_deadline(name: str, dialect: Dialect, call: _Call) -> Iterator[str]:
    if name == _OWN:
        yield "its deadline comes from the sidecar, to the millisecond; the caller's own goes before it"
        if any(route.method.timeout_seconds != call.told_seconds for route in call.routes if route.match.conditions):
            yield "the deadline of a route with conditions on headers has no effect there"
    elif not dialect.method_timeouts:
        yield "takes no deadline by xDS: a call has the caller's own, or none"
    elif call.plain.method.timeout_seconds is not None:
        yield "its deadline comes by xDS, and is the most that a caller can ask for"
    elif not call.path and call.told_seconds is not None:
        yield "a method that the contract does not name has no deadline there but the caller's own"


def _of_retry(dialect: Dialect, call: _Call) -> Iterator[str]:
    method = call.plain.method
    if method.retry is None:
        return
    if not dialect.envoy:
        yield f"has no retry budget over xDS: instances that all fail get up to {method.retry.attempts} times the calls"
        return
    yield "retries at most 20 % of the calls in hand, and elsewhere than before"
    if method.unary and method.timeout_seconds is not None:
        share = method.timeout_seconds / method.retry.attempts
        yield f"sends the call to another instance as well when {share:.3g} s brought no answer"


def _of_targets(dialect: Dialect, call: _Call) -> Iterator[str]:
    told: dict[str, list[str]] = {}
    for found in call.destinations:
        for text in _of_target(dialect, found):
            told.setdefault(text, []).append(str(found.target))
    for text, targets in told.items():
        yield text if len(targets) == len(call.destinations) else f"for {', '.join(targets)}: {text}"
    if dialect is JAVA:
        yield "was never measured: it is sent what Go is"
    if not dialect.envoy and any(_ejects(found) for found in call.destinations):
        yield "which instances it leaves out for failing cannot be seen from outside"


def _of_target(dialect: Dialect, found: Destination) -> Iterator[str]:
    if text := warning(found.balancing, dialect):
        yield text.removeprefix(f"{dialect.name} ")
    if found.balancing.kind is Balance.WEIGHTED_ROUND_ROBIN and dialect not in (CORE, ENVOY):
        yield "goes round instead where its version has no weighted_round_robin"
    if not dialect.envoy:
        yield from _only_envoys(found)


def _only_envoys(found: Destination) -> Iterator[str]:
    if found.limits.max_connections is not None or found.limits.max_pending_requests is not None:
        yield "of the limits takes maxRequests only"
    if found.outlier_detection.consecutive_failures and found.outlier_detection.source != "default":
        yield "takes no notice of consecutiveFailures"


def _ejects(found: Destination) -> bool:
    return bool(found.outlier_detection.failure_percentage or found.outlier_detection.success_rate)
