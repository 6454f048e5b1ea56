"""What each kind of xDS client takes. Pure.

A client that is sent what it does not take refuses the whole response (NACK) and may fail every call, so a
resource is put into the client's dialect before it is sent. Measured with grpcio 1.85, grpcurl 1.8 (gRPC-Go
1.44), grpc-js-xds 1.14 and Envoy 1.40.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from typing import Final

from mesh.policy import Balance, Balancing


class Unreachable(enum.Enum):
    """How a client is told of a service without a healthy instance, so that its calls fail at once."""

    EMPTY_CLUSTER = "empty cluster"
    """A cluster without endpoints whose EDS name says why: fails fast, honours wait_for_ready, prints the name."""

    NAMED_ENDPOINT = "named endpoint"
    """A cluster whose one address says why and is no host name: dialing it fails fast and prints it. An empty
    cluster hangs there, and so does a route configuration without routes in a program that dials before it calls."""

    NAMED_ZONE = "named zone"
    """A cluster whose one address is this host's own, at a port where nobody listens, with an IPv6 zone that says why:
    dialing it fails at once, prints the zone and honours wait_for_ready. An empty cluster does not say why, a named
    endpoint is refused, and no route fails calls that wait_for_ready too."""

    NO_ROUTE = "no route"
    """A route configuration that matches nothing."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What one kind of client takes."""

    name: str
    method_timeouts: bool = True
    """Takes `max_stream_duration`. C-core in Python fires it 1 to 2 s early (grpc/grpc#34547), so it gets none."""

    unreachable: Unreachable = Unreachable.NO_ROUTE
    balances: frozenset[Balance] = frozenset({Balance.ROUND_ROBIN, Balance.RING_HASH, Balance.WEIGHTED_ROUND_ROBIN})
    """What it takes; where it takes weighted_round_robin but does not have it, it goes round by itself (gRFC A52)."""

    marks_faults: bool = False
    """Takes two route configurations for the same when the newer has more keys in a map, or more bytes after those of
    the older (seen in grpc-js-xds 1.14): so each route has a fault, of nothing as a rule, and each ends with a mark."""

    envoy: bool = False
    """Takes what only Envoy has: retry host predicates, budgets, upstream protocol options."""

    def nearest(self, wanted: Balance) -> Balance:
        """What a client of this kind does in place of a policy that it does not take; else the policy itself."""
        return wanted if wanted in self.balances else _NEAREST[wanted]


_NEAREST: Final = {
    Balance.RANDOM: Balance.RING_HASH,  # which picks at random when nothing is hashed
    Balance.MAGLEV: Balance.RING_HASH,
    Balance.LEAST_REQUEST: Balance.ROUND_ROBIN,
    Balance.WEIGHTED_ROUND_ROBIN: Balance.ROUND_ROBIN,
}

CORE = Dialect(name="C-core", method_timeouts=False, unreachable=Unreachable.EMPTY_CLUSTER)
GO = Dialect(name="Go", unreachable=Unreachable.NAMED_ENDPOINT)
GO_1_72 = replace(GO, name="Go 1.72", balances=GO.balances | {Balance.LEAST_REQUEST})
JAVA = Dialect(name="Java")
NODE = Dialect(name="Node", unreachable=Unreachable.NAMED_ZONE, marks_faults=True)
ENVOY = Dialect(name="Envoy", unreachable=Unreachable.EMPTY_CLUSTER, balances=frozenset(Balance), envoy=True)

_BY_PREFIX = {"gRPC C-core": CORE, "gRPC Go": GO, "gRPC Java": JAVA, "gRPC Node": NODE, "envoy": ENVOY}


def dialect_of(user_agent: str, version: str = "") -> Dialect:
    """The dialect of a client by its `node.user_agent_name` and version; an unknown one is spoken to as Go."""
    found = next((d for prefix, d in _BY_PREFIX.items() if user_agent.startswith(prefix)), GO)
    return GO_1_72 if found is GO and user_agent.startswith("gRPC Go") and _numbers(version) >= (1, 72) else found


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else ()


def warning(wanted: Balancing, dialect: Dialect) -> str:
    """What a user should know of how a client of this kind takes a policy; empty when it does just that."""
    nearest = dialect.nearest(wanted.kind)
    if nearest is wanted.kind or wanted.kind is Balance.RANDOM:
        return ""
    return f"{dialect.name} does not take {wanted.kind.value}: {nearest.value} is the nearest"
